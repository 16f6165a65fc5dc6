"""A process with everything imported that turns into a ``dmpo`` command whenever one is typed.

    python prepared.py serve SOCKET             waits for commands
    python prepared.py ask SOCKET ARGUMENT …    is one: same folder, environment, streams, exit code

Each command is a fork of the waiting process, so it starts as fresh as a new one and saves the
seconds that importing torch and transformers takes. The pages have some hundred of them.
"""

import json
import os
import signal
import socket
import sys
import traceback

MODULES = (
    "accelerate",
    "datasets",
    "peft",
    "torch.utils.tensorboard",
    "transformers",
    "dmpo.cli.evaluate",
    "dmpo.cli.train",
    "dmpo.config.rehearsal",
    "dmpo.config.training_run",
    "dmpo.policies.llada",
    "dmpo.reporting.run_page",
)


def serve(place: str) -> None:
    """Import, then fork for every caller until the process that started this one is gone."""
    import importlib

    for name in MODULES:
        importlib.import_module(name)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    parent = os.getppid()
    listener.settimeout(5)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while os.getppid() == parent:
        try:
            caller, _ = listener.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            listener.close()
            _become(caller)
        caller.close()


def _become(caller: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    caller.settimeout(None)
    text, streams, _, _ = socket.recv_fds(caller, 1 << 20, 3)
    request = json.loads(text)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    # Those of this process know of the streams it was started with.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    paths = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path and path not in sys.path]
    sys.argv = ["dmpo", *request["arguments"]]
    code = 70
    try:
        from dmpo.cli.main import main

        code = main()
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    caller.sendall(bytes([code]))
    os._exit(code)


def ask(place: str, arguments: list[str]) -> int:
    """Have a command run, and return its exit code; 1 if it was killed."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(place)
        request = {
            "folder": os.getcwd(),
            "environment": dict(os.environ),
            "arguments": arguments,
        }
        socket.send_fds(line, [json.dumps(request).encode()], [0, 1, 2])
        return (line.recv(1) or b"\1")[0]


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
