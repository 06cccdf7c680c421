"""Where a loader's time goes, and one sentence of advice."""

from dataclasses import dataclass

from serengeti_etl.load.shard_source import SourceStats

_MIB = 1024 * 1024
_LITTLE = 0.02
_MOST = 0.75


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderReport:
    """What a loader has done since its first batch was asked for.

    Attributes:
        num_samples: handed out by this loader.
        num_replaced: images that were damaged, for which a neighbour stands.
        num_threads: that decode.
        resizes: they crop and resize too, and leave it to no device.
        seconds: wall time since the first batch was asked for.
        seconds_waited: of them, those that the consumer waited for batches.
        seconds_for_shards: that decoding threads waited for shards, summed over them.
        seconds_reading: that they read and checked samples, likewise.
        seconds_decoding: that they decoded, likewise.
        num_ahead: batches that are decoded ahead.
        num_ready: of these, those that lay ready when one was asked for, on average; None if too
            few were asked for to tell.
        least_ready: that ever lay ready.
        source: what was brought of the shards.
    """

    num_samples: int
    num_replaced: int
    num_threads: int
    resizes: bool
    seconds: float
    seconds_waited: float
    seconds_for_shards: float
    seconds_reading: float
    seconds_decoding: float
    num_ahead: int
    num_ready: float | None
    least_ready: int | None
    source: SourceStats

    @property
    def samples_per_second(self) -> float:
        """Samples handed out per second of wall time."""
        return self.num_samples / self.seconds if self.seconds else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the wall time that the consumer waited for batches, 0 to 1."""
        return self.seconds_waited / self.seconds if self.seconds else 0.0

    @property
    def num_busy(self) -> float:
        """Threads that read and decoded, on average."""
        busy = self.seconds_reading + self.seconds_decoding
        return busy / self.seconds if self.seconds else 0.0

    def advice(self) -> str:
        """One sentence on what holds the consumer up, if anything does."""
        rate = f"{self.num_busy:.1f} of {self.num_threads} threads busy"
        link = f"{self.source.num_bytes_fetched / _MIB / max(self.seconds, 1e-9):.0f} MB/s fetched"
        waited = f"{100 * self.wait_share:.0f} % of the time waited for batches"
        if self.wait_share <= _LITTLE:
            return f"the loader keeps up: {waited}; {rate}, {link}"
        busy = self.seconds_reading + self.seconds_decoding
        if self.seconds_for_shards > busy:
            return (
                f"bound by the network or disk: {waited}; {rate}, {link}; a nearer bucket, a "
                "larger cache or more ahead_bytes would help"
            )
        if self.num_busy >= _MOST * self.num_threads:
            more = ' or resize_on="device"' if self.resizes else ""
            return (
                f"bound by decoding: {waited}; {rate}, {link}; more cores, smaller photographs"
                f"{more} would help"
            )
        return (
            f"held up at times: {waited}; {rate}, {link}; more num_ahead would smooth it, or other "
            "work on these cores holds the threads up"
        )

    def _ready_text(self) -> str:
        name = "ready when asked for  "
        if self.num_ready is None:
            return f"{name}    none asked for yet"
        return f"{name}{self.num_ready:8.1f} of {self.num_ahead}, at least {self.least_ready}"

    def text(self) -> str:
        """The figures, one to a line, and the advice."""
        source = self.source
        fetched = (
            f"fetched {source.num_fetches} shards in {source.seconds_fetching:.1f} s, "
            f"{source.num_bytes_fetched / _MIB:.0f} MB; {source.num_hits} from the cache; "
            f"checked in {source.seconds_checking:.1f} s"
        )
        lines = (
            f"{self.num_samples} samples in {self.seconds:.1f} s: {self.samples_per_second:.0f}/s",
            f"waited for batches    {self.seconds_waited:8.1f} s",
            f"threads: for shards   {self.seconds_for_shards:8.1f} s",
            f"threads: reading      {self.seconds_reading:8.1f} s",
            f"threads: decoding     {self.seconds_decoding:8.1f} s",
            self._ready_text(),
            fetched,
            f"damaged: {self.num_replaced} samples, {source.num_damaged} shards",
            self.advice(),
        )
        return "\n".join(lines)
