"""Imports what the processes of a system import while they start; only a fork server imports this module."""

import localcloud.hypervisor
import localcloud.server
import localcloud.sqs.calls  # noqa: F401
from localcloud.patches import MODULES, patches_of
from services.clients import Clients, new_session
from services.endpoint import Endpoint

for service in MODULES:
    patches_of(service)

session = new_session()
session.set_credentials("none", "none")
clients = Clients(Endpoint("us-east-1", "http://127.0.0.1:9", max_attempts=1, pool_size=1), session)
models = (clients.dynamodb, clients.ec2, clients.s3, clients.sqs)  # botocore caches what it derives from its models
