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
        "Ocp-Apim-Subscription-Key",
        "x-functions-key",
        "DD-APPLICATION-KEY",
        "X-Session",
        "X-Hmac",
        "X-Shopify-Hmac-Sha256",
        "x-otp",
        "X-GitHub-OTP",
        "x-pin",
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
        ("referer", "https://a.example/x?next=/cb?token=s3cret", "https://a.example/x?next=/cb?token=****"),
        ("referer", "https://a.example/x?url=%3Ftoken%3Ds3cret", "https://a.example/x?url=****"),
        ("referer", "https://a.example/x;jsessionid=s3cret", "https://a.example/x;jsessionid=****"),
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
        ("token='s3cret", "token=****"),
        ('token="s3cret"&a=1', "token=****&a=1"),
        ("token=s3cret;s3cret", "token=****"),
        ("subscription-key=s3cret&ticket=s3cret", "subscription-key=****&ticket=****"),
        ("next=/cb?token=s3cret&a=1", "next=/cb?token=****&a=1"),
        ("url=https%3A%2F%2Fa%2F%3Ftoken%3Ds3cret&a=1", "url=****&a=1"),
        ("url=%252F%253Ftoken%253Ds3cret", "url=****"),
        ("url=https%3A%2F%2Fa%2F%3Fb%3D1", "url=https%3A%2F%2Fa%2F%3Fb%3D1"),
        ("u=https://joe:s3cret@h/", "u=https://****@h/"),
        ("u=https%3A%2F%2Fjoe%3As3cret%40h", "u=****"),
        ("q=50%25+off&b=a@b.example", "q=50%25+off&b=a@b.example"),
    ],
)
def test_queries(query: str, shown: str) -> None:
    assert redaction.query(query) == shown


def test_paths() -> None:
    assert redaction.path("/a;v=1/b;jsessionid=s3cret") == "/a;v=1/b;jsessionid=****"
    assert redaction.path("/a/token=1") == "/a/token=1"


def test_urls_in_urls_without_end() -> None:
    for deep in ("?a=" * 5000 + "?token=s3cret", "a=" + "%25" * 5000 + "3Ftoken%3Ds3cret"):
        assert "s3cret" not in redaction.query(deep)
