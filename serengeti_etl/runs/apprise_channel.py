"""The services that apprise knows; its only home."""

from serengeti_etl.errors import ConfigError
from serengeti_etl.runs.alert import Alert, Level, SendError


class AppriseChannel:
    """A url of apprise's, such as ``mailto://`` or ``tgram://``; see https://appriseit.com.

    Args:
        url: of one service.

    Raises:
        ConfigError: apprise is not installed, or does not know the url.
    """

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        self.name = f"{scheme}://…"
        try:
            import apprise
        except ImportError as error:
            raise ConfigError(
                f"--alert {self.name} needs apprise: install the extra with "
                "`pip install 'serengeti-etl[alerts]'`, or use ntfy+https:// or webhook+https://"
            ) from error
        self._sender = apprise.Apprise()
        # What it says of a url that it cannot use may repeat it.
        with apprise.LogCapture():
            is_known = self._sender.add(url)
        if not is_known:
            raise ConfigError(f"apprise does not know --alert {self.name}, or it lacks a part")
        self._kinds = {
            Level.INFO: apprise.NotifyType.INFO,
            Level.WARNING: apprise.NotifyType.WARNING,
            Level.CRITICAL: apprise.NotifyType.FAILURE,
        }

    def send(self, alert: Alert) -> None:
        """See ``channels.Channel``."""
        import apprise

        body = f"{alert.text or alert.title}\n\n{alert.tail}".strip()
        with apprise.LogCapture():
            is_sent = self._sender.notify(
                body=body, title=alert.title, notify_type=self._kinds[alert.level]
            )
        if not is_sent:
            raise SendError("apprise could not send it", may_pass=True)
