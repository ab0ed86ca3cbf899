"""The service's settings, from the environment (`MOORAGE_...`). Built once, in `run_server`'s caller, and passed down."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from moorage.ids import Workspace

MEBIBYTE = 1024 * 1024


class Settings(BaseSettings):
    """Every setting of `moorage run server`; each has an environment variable of its name with `MOORAGE_` before it."""

    model_config = SettingsConfigDict(env_prefix="MOORAGE_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".moorage", description="State folder.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8450, ge=0, le=65535, description="Port to listen on; 0 takes any free one.")
    public_url: str = Field("", description="Base URL under which clients and agents reach the service; from each request when empty.")
    tls_certificate: Path | None = Field(None, description="Certificate chain (PEM). Without it the service speaks plain HTTP.")
    tls_key: Path | None = Field(None, description="Private key (PEM) of the certificate.")
    database_url: SecretStr = Field(
        SecretStr(""), description="sqlite:////path or postgresql://...; a file in the state folder when empty."
    )
    artifacts_url: SecretStr = Field(
        SecretStr(""), description="Where blobs lie: file:///path, s3://, az://, gs://; a folder in the state folder when empty."
    )
    keys_folder: Path | None = Field(
        None, description="Key files (0600), made on first start; `server/keys` in the state folder when empty."
    )
    subscription: str = Field("00000000-0000-0000-0000-000000000000", description="Subscription of the workspace made at first start.")
    resource_group: str = Field("moorage", description="Its resource group.")
    workspace: str = Field("default", description="Its name.")
    location: str = Field("local", description="Location that every resource shows.")
    request_limit: int = Field(8 * MEBIBYTE, gt=0, description="Largest JSON body, in bytes.")
    blob_limit: int = Field(200 * 1024 * MEBIBYTE, gt=0, description="Largest blob or block, in bytes.")
    stop_grace: timedelta = Field(timedelta(seconds=10), description="How long open requests may finish after a stop signal.")
    agent_timeout: timedelta = Field(timedelta(seconds=45), description="A cluster whose agent was silent for longer shows as Offline.")
    workload_token_lifetime: timedelta = Field(timedelta(hours=12), description="Life of the blob tokens of job and scoring pods.")
    scoring_token_lifetime: timedelta = Field(
        timedelta(hours=1),
        ge=timedelta(minutes=1),
        description="Life of the tokens that callers of endpoints with `auth_mode: aml_token` get; at least a minute.",
    )

    url_map: Path | None = Field(
        None, description="YAML or JSON file that maps prefixes of web addresses to local files; jobs may name those addresses as inputs."
    )
    url_map_wait: timedelta = Field(
        timedelta(seconds=30),
        description="How long submitting a job waits for the files behind its web addresses; the copy goes on, and the client is told to come again.",
    )
    image_builder: str = Field(
        "",
        description="Program, with arguments if need be, that makes images of environments with a build context; empty: such environments are refused.",
    )
    image_builds: int = Field(2, ge=1, description="How many images one process of the service has built at once.")
    image_build_timeout: timedelta = Field(timedelta(hours=1), gt=timedelta(0), description="How long one build may take.")
    image_build_folder: Path | None = Field(
        None, description="Where build contexts are put while images are built; `server/builds` in the state folder when empty."
    )

    @property
    def default_workspace(self) -> Workspace:
        return Workspace(self.subscription, self.resource_group, self.workspace)

    @property
    def database(self) -> str:
        return self.database_url.get_secret_value() or f"sqlite:///{(self.home / 'server' / 'moorage.db').absolute()}"

    @property
    def artifacts(self) -> str:
        return self.artifacts_url.get_secret_value() or (self.home / "server" / "artifacts").absolute().as_uri()

    @property
    def builds(self) -> Path:
        return self.image_build_folder or self.home / "server" / "builds"

    @property
    def keys(self) -> Path:
        return self.keys_folder or self.home / "server" / "keys"
