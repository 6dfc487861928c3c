"""The files that a configuration names, read as a start would."""

from pathlib import Path

from fasttunnel.control import tls
from fasttunnel.control.config import ClientConfig, ServerConfig
from fasttunnel.control.tokens import read_tokens
from fasttunnel.errors import ConfigError


def check_files(settings: ServerConfig | ClientConfig) -> None:
    """Raises ConfigError."""
    if isinstance(settings, ServerConfig):
        tls.check(settings.certificates, settings.client_ca)
        if settings.tokens_file:
            read_tokens(Path(settings.tokens_file))
        return
    if settings.certificate is not None:
        tls.check_pem(settings.certificate)
    for authorities in (settings.ca, settings.backend_ca):
        if authorities and b"-----BEGIN CERTIFICATE-----" not in tls.read_pem(authorities):
            raise ConfigError(f"{authorities} holds no certificate")
