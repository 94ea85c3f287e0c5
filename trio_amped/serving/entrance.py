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

    __slots__ = ("_by_other_scheme", "context", "is_proxied", "replies", "router")

    def __init__(
        self,
        router: Router,
        context: Callable[[], ssl.SSLContext] | None = None,
        *,
        is_proxied: bool = False,
    ) -> None:
        self.router = router
        self.replies = Replies(router)
        self._by_other_scheme: Replies | None = None  # once that was asked for
        self.context = context
        self.is_proxied = is_proxied

    def replies_by(self, scheme: str) -> Replies:
        """Return the lane's answers for a client that has used a scheme, see `Router.by`."""
        router = self.router.by(scheme)
        if router is self.router:
            return self.replies
        if self._by_other_scheme is None:
            self._by_other_scheme = Replies(router)
        return self._by_other_scheme
