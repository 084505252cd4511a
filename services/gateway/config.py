"""Settings of the gateway."""

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from services.common.config import ClusterSection, RegistrySection, Section, StateSection, TelemetrySection, TlsSection


class GatewaySection(Section):
    """Where agents come in: OpenAI's HTTP API and the SDK's gRPC."""

    http_port: int = Field(default=8000, ge=0, le=65535)
    """0: any free port."""
    port: int = Field(default=8001, ge=0, le=65535)
    """gRPC; 0: any free port."""
    api_keys_file: str = ""
    """Who may come in: an API key on each line, behind it the name of its tenant if it is bound to one. Empty:
    everybody."""
    cert_file: str = ""
    """Certificate, with its chain, that both doors show; empty: they talk plain text. Clients need none."""
    key_file: str = ""
    """Its key."""
    max_body_bytes: int = Field(default=32 * 1024 * 1024, ge=1024)
    """Larger request bodies are refused."""
    max_calls_in_flight: int = Field(default=16_384, ge=1)
    """Calls at this gateway at once, queued ones included; more are refused with TOO_MANY_CALLS."""
    max_choices: int = Field(default=16, ge=1)
    """Largest `n` of one request."""
    default_max_tokens: int = Field(default=0, ge=0)
    """Output limit of chats that name none; 0: what is left of the context."""
    queue_timeout_seconds: float = Field(default=0.0, ge=0)
    """How long a call may wait to be placed; 0: as long as it takes."""
    scheduler_grace_seconds: float = Field(default=10.0, ge=0)
    """How long calls wait for a scheduler when none can be reached."""
    max_restarts: int = Field(default=8, ge=0)
    """How many workers a call may lose before it fails."""
    early_headers_seconds: float = Field(default=0.5, ge=0)
    """A stream whose call was not refused by then gets its headers, so that clients see that it is alive."""
    keepalive_seconds: float = Field(default=15.0, gt=0)
    """How often a stream gets a comment, so that what lies between knows that it is alive."""
    body_timeout_seconds: float = Field(default=60.0, gt=0)
    """How long a client may take to send its request."""
    stalled_reader_seconds: float = Field(default=120.0, gt=0)
    """A client that takes nothing of its output for so long, or up to twice as long, is taken for gone."""
    stream_interval: int = Field(default=1, ge=1)
    """Tokens in one event of a stream, at least; the first comes at once. More saves time of gateway and clients."""
    unread_interval: int = Field(default=32, ge=1)
    """The same for calls whose caller waits for the whole answer."""
    inline_bytes: int = Field(default=32 * 1024, ge=0)
    """Larger requests are parsed, rendered and tokenized in a thread, so that they do not hold up others."""
    segment_cache_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """Memory for the tokens of text seen before, for each model."""
    hash_cache_bytes: int = Field(default=64 * 1024 * 1024, ge=0)
    """Memory for the block hashes of prompts seen before, for each model."""
    verify_every: int = Field(default=256, ge=0)
    """Each so-manieth prompt is also tokenized without the cache and compared; 0: none."""
    tenant_header: str = "x-legato-tenant"
    """HTTP header that names the tenant; empty: every HTTP call is the default tenant's."""
    salt_secret: SecretStr = SecretStr("")
    """Keys the salts that keep tenants' KV apart, the hashes of what prompts say and the programs of tenants' sessions.
    The same at all gateways."""
    idempotency_seconds: float = Field(default=600.0, ge=0, le=86_400)
    """How long the answer to a request with an Idempotency-Key is kept in the state store; 0: none is."""
    idempotency_bytes: int = Field(default=1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    """Larger answers are not kept."""
    idempotency_total_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """Of the answers that a gateway keeps at a time, together; where it would be more, further ones are not kept until
    the oldest expire. A gateway that starts anew does not know what it kept before: in the state store lie so many for
    each gateway, and as many again for each start of one within `idempotency_seconds`."""
    call_log_entries: int = Field(default=100_000, ge=1)
    """Events that wait for the call log while the state store is away; beyond it the oldest are dropped."""
    call_log_bytes: int = Field(default=1024 * 1024 * 1024, ge=1024 * 1024)
    """Of the whole call log in the state store, at most; what is older is dropped. The same at all gateways."""

    @property
    def content_key(self) -> bytes:
        """Keys the hashes of what prompts say."""
        return self.salt_secret.get_secret_value().encode()


class Settings(BaseModel):
    """What a gateway process reads."""

    model_config = ConfigDict(frozen=True)

    cluster: ClusterSection = ClusterSection()
    tls: TlsSection = TlsSection()
    registry: RegistrySection = RegistrySection()
    state: StateSection = StateSection()
    telemetry: TelemetrySection = TelemetrySection()
    gateway: GatewaySection = GatewaySection()
