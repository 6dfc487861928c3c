"""What is never shown of header fields and queries."""

import pytest

from fasttunnel.control import redaction

SECRET = "s3cret"


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "proxy-authorization",
        "cookie",
        "Set-Cookie",
        "x-api-key",
        "X-ApiKey",
        "x-auth-token",
        "x-amz-security-token",
        "x-csrf-token",
        "x-session-id",
        "www-authenticate",
        "x-goog-authenticated-user-jwt",
        "signature",
        "grpcgateway-authorization",
        "x-client-secret-bin",
    ],
)
def test_fields_that_hold_secrets(name: str) -> None:
    assert redaction.field(name, SECRET) == "****"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("content-type", "text/html; charset=utf-8", "text/html; charset=utf-8"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("referer", "https://a.example/x?token=s3cret&b=2", "https://a.example/x?token=****&b=2"),
        ("location", "https://joe:s3cret@a.example/x", "https://****@a.example/x"),
        ("location", "/cb#access_token=s3cret", "/cb#access_token=****"),
        ("x-forwarded-authorisation", "Bearer s3cret", "****"),
        ("sec-websocket-protocol", "graphql-ws, bearer, s3cret", "graphql-ws, bearer, ****"),
        ("sec-websocket-protocol", "base64url.bearer.authorization.k8s.io.s3cret", "base64url.bearer.****"),
        ("sec-websocket-protocol", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.s3cret", "****"),
    ],
)
def test_other_fields(name: str, value: str, shown: str) -> None:
    assert redaction.field(name, value) == shown


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", ""),
        ("a=1&b=2", "a=1&b=2"),
        ("token=s3cret", "token=****"),
        ("a=1&access_token=s3cret&b=2", "a=1&access_token=****&b=2"),
        ("a=1;API-KEY=s3cret", "a=1;API-KEY=****"),
        ("%74oken=s3cret", "%74oken=****"),
        ("user%5Bpassword%5D=s3cret", "user%5Bpassword%5D=****"),
        ("code=s3cret&state=s3cret", "code=****&state=****"),
        ("X-Amz-Signature=s3cret&X-Amz-Date=1", "X-Amz-Signature=****&X-Amz-Date=1"),
        ("sig=s3cret==", "sig=****"),
        ("zipcode=8000&keyboard=de", "zipcode=8000&keyboard=de"),
        ("q=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.s3cret", "q=****"),
        ("token=", "token="),
    ],
)
def test_queries(query: str, shown: str) -> None:
    assert redaction.query(query) == shown
