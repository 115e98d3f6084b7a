"""Run by `helm test`, in the operator's image: the API server knows PretrainJobs, and the operator is ready.

Takes one argument: the address of the operator's health Service. Needs no right beyond the discovery that every service
account has. Ends with 1 and a sentence for each thing that is wrong.
"""

import json
import os
import pathlib
import ssl
import sys
import time
import urllib.error
import urllib.request

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
GROUP_VERSION = "pretrain.dev/v1alpha1"
PATIENCE_SECONDS = 60


def main() -> None:
    """Looks, and says what was found."""
    wrong = [*what_is_wrong_with_the_definition(), *what_is_wrong_with_the_operator(sys.argv[1])]
    print("\n".join(wrong or ["The API server knows PretrainJobs, and the operator is ready."]))
    sys.exit(1 if wrong else 0)


def what_is_wrong_with_the_definition() -> list[str]:
    """Asks the API server for the resources of our group."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    request = urllib.request.Request(
        f"https://{f'[{host}]' if ':' in host else host}:{port}/apis/{GROUP_VERSION}",
        headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"},
    )
    trust = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
    try:
        with urllib.request.urlopen(request, timeout=10, context=trust) as answer:  # noqa: S310 - https
            known = [resource["name"] for resource in json.load(answer)["resources"]]
    except OSError as error:
        return [f"{GROUP_VERSION} is not served ({error}): install the chart with crds.enabled=true, or apply the CRD"]
    return [] if "pretrainjobs" in known else [f"{GROUP_VERSION} has no pretrainjobs, only {', '.join(known)}"]


def what_is_wrong_with_the_operator(address: str) -> list[str]:
    """Waits until the operator says that it is ready."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=5):
                return []
        except OSError as error:
            if time.monotonic() > until:
                return [f"http://{address}/readyz: {error}; read the operator's log"]
        time.sleep(1)


if __name__ == "__main__":
    main()
