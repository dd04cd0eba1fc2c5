"""What a machine's own network has beside loopback: the cloud on it, and a link to the instance's metadata service.

The service has a network of its own at the other end of that link. In the machine's it would hold port 80, and the
machine could not serve there itself. Both ends go with the sockets of the hypervisor that made them; one which takes
over makes them anew.
"""

import contextlib
import socket

from localcloud.machines.netns import in_network_of, in_new_network, ip, network_of

METADATA_ADDRESS = "169.254.169.254"
METADATA_PORT = 80
BACKLOG = 512

# cloud-init does not take a device of such a name for a network card that it must set up.
_MACHINE_END, _SERVICE_END = "veth-metadata", "veth-machine"
_MACHINE_ADDRESS = "169.254.169.1"


def listen_in(pid: int, cloud: tuple[str, int]) -> tuple[socket.socket, socket.socket]:
    """Return what listens for a machine: at its metadata service's address, and at the cloud's, in its network.

    Args:
        pid: a process in the machine's network.
        cloud: host, on loopback, and port of the cloud.

    Raises:
        OSError: the machine has ended, or the network cannot be made.
    """
    with contextlib.ExitStack() as undo:
        at_cloud = undo.enter_context(in_network_of(pid, lambda: _listen_at_cloud(cloud)))
        metadata = undo.enter_context(in_new_network(lambda: _listen_for_metadata(pid)))
        in_network_of(pid, lambda: ip(*_up(_MACHINE_END, _MACHINE_ADDRESS, METADATA_ADDRESS)))
        undo.pop_all()
    return metadata, at_cloud


def _listen_at_cloud(cloud: tuple[str, int]) -> socket.socket:
    ip("link set lo up")
    with contextlib.suppress(OSError):
        ip(f"link delete {_MACHINE_END}")  # of a hypervisor that was just killed, and not gone yet
    return socket.create_server(cloud, backlog=BACKLOG)


def _listen_for_metadata(machine_pid: int) -> socket.socket:
    peer = f"peer name {_MACHINE_END} netns {network_of(machine_pid)}"
    ip(f"link add {_SERVICE_END} type veth {peer}", *_up(_SERVICE_END, METADATA_ADDRESS, _MACHINE_ADDRESS))
    return socket.create_server((METADATA_ADDRESS, METADATA_PORT), backlog=BACKLOG)


def _up(device: str, address: str, peer: str) -> tuple[str, ...]:
    # No multicast: a resolver in the machine would ask its link for each name, and wait.
    return f"address add {address} peer {peer} dev {device}", f"link set {device} multicast off addrgenmode none up"
