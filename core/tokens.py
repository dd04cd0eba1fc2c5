"""Whether a token is one that the user pool gave to this site's client, and still good: told without asking the pool.

Only what Cognito's tokens are is taken: RS256 by a key of the pool's, in a header of `kid`, `alg` and perhaps `typ`.
A token says neither how it is to be checked nor where its key is. RFC 8725 is the list of what goes wrong otherwise;
https://docs.aws.amazon.com/cognito/latest/developerguide/amazon-cognito-user-pools-using-tokens-verifying-a-jwt.html
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.util import urlsafe_b64decode
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from core.token_keys import KeysUnreachableError, TokenKeys
from services.errors import FleetsightError

MAX_TOKEN_CHARACTERS = 8_192
"""Characters; one of Cognito's has about 1,000, and some 20 more for each group."""

ALGORITHM = "RS256"
SKEW = timedelta(minutes=1)
"""How far the pool's clock may be ahead of ours."""

_HEADER = frozenset({"alg", "kid", "typ"})
_END_OF_TIME = 253_402_300_799
"""Seconds to the end of the year 9999, after which there are no dates."""

Name = Annotated[str, Field(min_length=1, max_length=256)]
Moment = Annotated[int, Field(ge=0, le=_END_OF_TIME)]


class TokenRefusedError(FleetsightError):
    """Raised when a token is not taken; the message is for the log, and nothing of the token is in it."""


class TokenUncheckedError(TokenRefusedError):
    """Raised when a token cannot be checked, since the pool's keys have not been had yet: try again."""


@dataclass(frozen=True)
class TokenClaims:
    """What a good token says.

    Attributes:
        sub: id of the account.
        email: its address; empty in an access token, which has none.
        use: what kind of token it is.
    """

    sub: str
    email: str
    username: str
    groups: frozenset[str]
    use: Literal["id", "access"]
    expires_at: datetime


class _Claims(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    iss: str
    sub: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")]
    exp: Moment
    iat: Moment
    nbf: Moment = 0
    groups: list[Name] = Field(default=[], alias="cognito:groups")


class _IdClaims(_Claims):
    token_use: Literal["id"]
    audience: str = Field(alias="aud")
    username: Name = Field(alias="cognito:username")
    email: Annotated[str, Field(max_length=256)] = ""


class _AccessClaims(_Claims):
    token_use: Literal["access"]
    audience: str = Field(alias="client_id")
    username: Name


_CLAIMS: TypeAdapter[_IdClaims | _AccessClaims] = TypeAdapter(
    Annotated[_IdClaims | _AccessClaims, Field(discriminator="token_use")]
)


class TokenVerifier:
    """Checks tokens; threads may share it.

    Args:
        issuer: of the pool's tokens, see `token_keys.issuer_of`.
        client_id: of the client that they must be for.
        fetch_keys: see `TokenKeys.fetch`.
        clock: the time of day.
    """

    def __init__(
        self, issuer: str, client_id: str, fetch_keys: Callable[[], bytes], clock: Callable[[], datetime]
    ) -> None:
        self._issuer, self._client_id, self._clock = issuer, client_id, clock
        self._keys = TokenKeys(fetch_keys, clock)

    def verify(self, text: str) -> TokenClaims:
        """Return what a token says.

        Raises:
            TokenRefusedError: it is not one of the pool's for this client, or no longer or not yet good.
        """
        if len(text) > MAX_TOKEN_CHARACTERS or not text.isascii():
            raise TokenRefusedError("too long, or not in ASCII")
        claims = self._signed_claims(text, _key_id(text))
        self._check(claims)
        expires_at = datetime.fromtimestamp(claims.exp, UTC)
        email = claims.email if isinstance(claims, _IdClaims) else ""
        return TokenClaims(claims.sub, email, claims.username, frozenset(claims.groups), claims.token_use, expires_at)

    def _signed_claims(self, text: str, key_id: str) -> _IdClaims | _AccessClaims:
        try:
            key = self._keys.find(key_id)
        except KeysUnreachableError as error:
            raise TokenUncheckedError(str(error)) from None
        if key is None:
            raise TokenRefusedError("signed by a key that the pool does not have")
        try:
            token = jwt.decode(text, key, algorithms=[ALGORITHM], decoder_cls=_StrictDecoder)
            return _CLAIMS.validate_python(token.claims)
        except ValidationError as error:
            fields = sorted({".".join(map(str, fault["loc"])) for fault in error.errors(include_input=False)})
            raise TokenRefusedError(f"claims that are missing or wrong: {', '.join(fields)}") from None
        except (JoseError, ValueError, TypeError, RecursionError) as error:
            raise TokenRefusedError(f"not signed by the pool, or no token ({type(error).__name__})") from None

    def _check(self, claims: _IdClaims | _AccessClaims) -> None:
        now = self._clock().timestamp()
        if claims.iss != self._issuer:
            raise TokenRefusedError("from another issuer")
        if claims.audience != self._client_id:
            raise TokenRefusedError("for another client")
        if now >= claims.exp:
            raise TokenRefusedError("expired")
        if max(claims.nbf, claims.iat) > now + SKEW.total_seconds():
            raise TokenRefusedError("not good yet; is this machine's clock right?")


class _StrictDecoder(json.JSONDecoder):
    """Takes no name twice, which readers of the same text would read differently."""

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _key_id(text: str) -> str:
    """Return the id of the key that a token says it is signed by, when its header is as Cognito's.

    Raises:
        TokenRefusedError: another algorithm, or anything about keys or extensions.
    """
    try:
        header = json.loads(urlsafe_b64decode(text.partition(".")[0].encode()), cls=_StrictDecoder)
    except (ValueError, RecursionError):
        raise TokenRefusedError("no token") from None
    if not isinstance(header, dict) or not header.keys() <= _HEADER:
        raise TokenRefusedError("a header with more in it than algorithm and key id")
    if header.get("alg") != ALGORITHM:
        raise TokenRefusedError(f"another algorithm than {ALGORITHM}")
    key_id = header.get("kid")
    if not isinstance(key_id, str):
        raise TokenRefusedError("no key id")
    return key_id
