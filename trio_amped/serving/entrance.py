"""How clients come in: by which listener, to which sites, with TLS or without. Never waits."""

import ssl
from collections.abc import Callable

from .replies import Replies
from .router import Router


class Entrance:
    """What all connections of a listener have in common.

    `router`: the sites that are served there. `replies`: the lane's answers of them. `context`:
    that of the moment, for TLS of ours; None: the streams are plain, or have TLS of their own.
    `is_proxied`: trusted peers tell first whose a connection is (PROXY protocol).
    """

    __slots__ = ("context", "is_proxied", "replies", "router")

    def __init__(
        self,
        router: Router,
        context: Callable[[], ssl.SSLContext] | None = None,
        *,
        is_proxied: bool = False,
    ) -> None:
        self.router = router
        self.replies = Replies(router)
        self.context = context
        self.is_proxied = is_proxied
