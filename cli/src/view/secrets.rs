//! API keys and join tokens. Their secrets are never part of a table.

use jiff::Timestamp;
use surplus_protocol::api::{Key, Role, Token};

use super::View;

impl View {
    pub(crate) fn keys(&self, keys: &[Key]) -> String {
        if keys.is_empty() {
            return "no keys\n".to_owned();
        }
        self.table(
            &["NAME", "ROLE", "CREATED"],
            keys.iter().map(|key| {
                vec![
                    key.name.clone(),
                    role(key.role).to_owned(),
                    self.time(key.created_at),
                ]
            }),
        )
    }

    pub(crate) fn tokens(&self, tokens: &[Token]) -> String {
        if tokens.is_empty() {
            return "no join tokens: `surplus token create NAME` makes one\n".to_owned();
        }
        self.table(
            &["NAME", "USED", "EXPIRES", "FROM", "CREATED"],
            tokens.iter().map(|token| {
                vec![
                    token.name.clone(),
                    self.used(token.used, token.uses),
                    self.expiry(token.expires_at),
                    if token.networks.is_empty() {
                        "anywhere".into()
                    } else {
                        token.networks.join(", ")
                    },
                    self.time(token.created_at),
                ]
            }),
        )
    }

    /// One sentence on what the token is good for.
    pub(crate) fn token_terms(&self, token: &Token) -> String {
        let uses = match token.uses {
            None => "any number of hosts".to_owned(),
            Some(1) => "one host".to_owned(),
            Some(uses) => format!("{uses} hosts"),
        };
        let expiry = token.expires_at.map_or("does not expire".into(), |at| {
            format!("expires {}", self.time(at))
        });
        let from = if token.networks.is_empty() {
            "anywhere".into()
        } else {
            token.networks.join(", ")
        };
        format!("token {}: for {uses}, {expiry}, from {from}", token.name)
    }

    /// How often something was used, of how often it may be.
    pub(super) fn used(&self, used: u32, uses: Option<u32>) -> String {
        uses.map_or_else(
            || format!("{used} of any"),
            |uses| format!("{used} of {uses}"),
        )
    }

    pub(super) fn expiry(&self, expires_at: Option<Timestamp>) -> String {
        match expires_at {
            Some(at) if at <= self.now => format!("expired {}", self.time(at)),
            at => self.time_or(at, "never"),
        }
    }
}

pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Operator => "operator",
        Role::Buyer => "buyer",
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{token, view};

    #[test]
    fn tokens_say_what_is_left_of_them() {
        let mut spent = token("spent");
        spent.used = 3;
        spent.expires_at = Some("2026-01-02T00:00:00Z".parse().unwrap());
        let mut open = token("open");
        open.uses = None;
        open.networks = vec!["10.0.0.0/8".into(), "fd00::/8".into()];
        insta::assert_snapshot!(view().tokens(&[spent, open]));
    }
}
