"""python -m deployments.prefect_process --host HOST --port PORT: the process of Prefect's
server, which `deployments.prefect_server` describes.

Decision 155.
"""

from protocol.machine.importing import uncollected


def main() -> None:
    """Serves until SIGINT or SIGTERM."""
    with uncollected():
        from deployments.prefect_server import serve
    serve()


if __name__ == "__main__":
    main()
