"""Processes that a test starts, and ends with all that they have started."""

import subprocess

import psutil


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, if they are there."""
    children = []
    if process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    process.wait()
    for child in children:
        if child.is_running():
            child.kill()
