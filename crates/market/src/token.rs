//! Join tokens: how often, until when and from where each may be used.
//!
//! What always holds: a token is counted in the same transaction that enrols
//! the host, so two enrolments racing for its last use cannot both have it; a
//! use is a host, not a boot of it.

use std::net::IpAddr;

use jiff::Timestamp;
use surplus_protocol::Digest;
use surplus_protocol::admission::{is_in, network};
use surplus_protocol::api::{CreateToken, Token};
use surplus_protocol::ids::TokenId;

use crate::records::TokenRecord;
use crate::store::{StoreError, Tx};

/// Why a token does not admit a host. Names the token, never its secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    #[error("the join token is not known here")]
    Unknown,
    #[error("join token {name:?} is spent: used {used} of {uses} times")]
    Spent { name: String, used: u32, uses: u32 },
    #[error("join token {name:?} expired at {at}")]
    Expired { name: String, at: Timestamp },
    #[error("join token {name:?} may not be used from {from}, only from {}", networks.join(", "))]
    WrongNetwork {
        name: String,
        from: IpAddr,
        networks: Vec<String>,
    },
}

/// Why a token was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateTokenError {
    #[error("a token needs a name of 1 to 64 characters")]
    Name,
    #[error("a token with 0 uses admits nobody")]
    NoUses,
    #[error("the expiry {at} has passed already")]
    ExpiryPassed { at: Timestamp },
    #[error("{text:?} is not a network such as 192.0.2.0/24")]
    Network { text: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The token once more used, where it admits a host that calls from `from`. A
/// host that was `counted` before spends nothing.
///
/// # Errors
///
/// [`TokenRefusal`] where it does not.
pub fn spend(
    token: &TokenRecord,
    now: Timestamp,
    from: IpAddr,
    counted: bool,
) -> Result<TokenRecord, TokenRefusal> {
    let name = || token.name.clone();
    if let Some(at) = token.expires_at.filter(|at| *at <= now) {
        return Err(TokenRefusal::Expired { name: name(), at });
    }
    let from = from.to_canonical();
    let inside = |text: &String| is_in(from, text);
    if !token.networks.is_empty() && !token.networks.iter().any(inside) {
        let networks = token.networks.clone();
        return Err(TokenRefusal::WrongNetwork {
            name: name(),
            from,
            networks,
        });
    }
    if counted {
        return Ok(token.clone());
    }
    if let Some(uses) = token.uses.filter(|uses| token.used >= *uses) {
        return Err(TokenRefusal::Spent {
            name: name(),
            used: token.used,
            uses,
        });
    }
    Ok(TokenRecord {
        used: token.used.saturating_add(1),
        ..token.clone()
    })
}

/// Makes a token of which only `hash` is kept.
///
/// # Errors
///
/// [`CreateTokenError`] where the order makes no sense or the name is taken.
pub async fn create<T: Tx>(
    tx: &mut T,
    now: Timestamp,
    id: TokenId,
    hash: Digest,
    order: CreateToken,
) -> Result<TokenRecord, CreateTokenError> {
    if order.name.is_empty() || order.name.chars().count() > 64 {
        return Err(CreateTokenError::Name);
    }
    if order.uses == Some(0) {
        return Err(CreateTokenError::NoUses);
    }
    if let Some(at) = order.expires_at.filter(|at| *at <= now) {
        return Err(CreateTokenError::ExpiryPassed { at });
    }
    let mut networks = Vec::new();
    for text in order.networks {
        match network(&text) {
            Ok(net) => networks.push(net.to_string()),
            Err(_) => return Err(CreateTokenError::Network { text }),
        }
    }
    let token = TokenRecord {
        id,
        name: order.name,
        hash,
        uses: order.uses,
        used: 0,
        expires_at: order.expires_at,
        networks,
        created_at: now,
    };
    tx.put_token(&token).await?;
    Ok(token)
}

/// The token as the interface shows it.
pub fn view(token: TokenRecord) -> Token {
    let TokenRecord {
        id,
        name,
        uses,
        used,
        expires_at,
        networks,
        created_at,
        hash: _,
    } = token;
    Token {
        id,
        name,
        uses,
        used,
        expires_at,
        networks,
        created_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> TokenRecord {
        TokenRecord {
            id: TokenId::nil(),
            name: "rack 1".to_owned(),
            hash: Digest::from_sha256([0; 32]),
            uses: Some(1),
            used: 0,
            expires_at: Some(Timestamp::from_second(100).unwrap()),
            networks: vec!["192.0.2.0/24".to_owned()],
            created_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_single_use_token_is_spent_after_one() {
        let from = "192.0.2.7".parse().unwrap();
        let once = spend(&token(), at(1), from, false).unwrap();
        assert!(matches!(
            spend(&once, at(1), from, false),
            Err(TokenRefusal::Spent { .. })
        ));
    }

    #[test]
    fn an_expired_token_is_refused_from_the_second_it_expires() {
        let from = "192.0.2.7".parse().unwrap();
        for counted in [false, true] {
            assert!(spend(&token(), at(99), from, counted).is_ok());
            assert!(matches!(
                spend(&token(), at(100), from, counted),
                Err(TokenRefusal::Expired { .. })
            ));
        }
    }

    #[test]
    fn a_token_is_refused_from_another_network() {
        for (from, good) in [
            ("192.0.3.7", false),
            ("::ffff:192.0.2.7", true),
            ("::1", false),
        ] {
            let from = from.parse().unwrap();
            for counted in [false, true] {
                let spent = spend(&token(), at(1), from, counted);
                assert_eq!(spent.is_ok(), good, "{from}");
            }
        }
    }
}
