"""A web instance of a stack: web tier and controller of this checkout, each with its role.

`python -m tests.support.web_instance FOLDER` takes the place of the image's `start web`. In the folder it writes the
configuration of the controller's role, as `start` does from the role that the user data names.
"""

import os
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    role = Path(sys.argv[1], "aws-controller")
    role.write_text(f"""[default]
role_arn = {os.environ["FLEETSIGHT_CONTROLLER_ROLE"]}
credential_source = Ec2InstanceMetadata
role_session_name = controller
""")
    sys.argv = ["gunicorn", "-c", "python:web_tier.gunicorn", "web_tier.app:create_app()"]
    module = "gunicorn"
    if not os.fork():
        os.environ["AWS_CONFIG_FILE"] = str(role)
        sys.argv, module = ["controller"], "web_tier.controller"
    runpy.run_module(module, run_name="__main__", alter_sys=True)
