"""Who the operator is to the API server: one configuration, for the client's requests and for kopf's watches."""

from __future__ import annotations

import os
from collections.abc import Sequence

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config
from pretrain_stage.errors import UserError

from pretrain_operator.stages import VERSION

USER_AGENT = f"pretrain-operator/{VERSION}"
TOKEN = ["BearerToken"]
"""Name under which the client keeps a service account's token; it reads the file again after a minute."""


async def connect(traces: Sequence[aiohttp.TraceConfig] = ()) -> ApiClient:
    """A client with the service account of the pod, or outside of one with KUBECONFIG's. Raises UserError if there is neither.

    traces: told of every request. To be closed by the caller.
    """
    configuration = Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise UserError(
            f"KUBECONFIG={os.environ.get('KUBECONFIG', '')}: no access to a cluster ({error}); run in a pod with a service "
            "account, or set KUBECONFIG to a file that kubectl takes"
        ) from None
    configuration.trace_configs = list(traces)
    client = ApiClient(configuration)
    client.user_agent = USER_AGENT
    return client


async def close(client: ApiClient) -> None:
    """Closes the client's connections."""
    await client.close()  # type: ignore[no-untyped-call]


def watch_session(client: ApiClient, traces: Sequence[aiohttp.TraceConfig] = ()) -> aiohttp.ClientSession:
    """A session for kopf that is the same user as the client, with the same token at any time. Closed by kopf."""

    async def authorize(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        headers: dict[str, str] = {}
        await client.update_params_for_auth(headers, [], TOKEN, None, None, None)
        request.headers.update(headers)
        return await handler(request)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=client.rest_client.ssl_context),
        headers={"User-Agent": USER_AGENT},
        middlewares=(authorize,),
        trace_configs=list(traces),
        trust_env=True,
    )
