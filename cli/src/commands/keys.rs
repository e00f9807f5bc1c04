//! `surplus key`: API keys of buyers and operators.

use clap::{Subcommand, ValueEnum};
use surplus_protocol::api::{CreateKey, CreatedKey, Key, Role};

use super::Session;
use crate::api::path_segment;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make an API key; it is shown this once
    Create {
        /// What to call it
        name: String,
        /// What it may do
        #[arg(long, value_enum)]
        role: RoleName,
    },
    /// The API keys
    List,
    /// Withdraw an API key at once
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum RoleName {
    /// Rents: images, quotes, own leases and bills
    Buyer,
    /// Runs the marketplace: tokens, hosts, keys, every lease
    Operator,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Buyer => Self::Buyer,
            RoleName::Operator => Self::Operator,
        }
    }
}

pub(crate) async fn run(session: &Session, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { name, role } => {
            let created: CreatedKey = session
                .api
                .post(
                    "/keys",
                    &CreateKey {
                        name,
                        role: role.into(),
                    },
                )
                .await?;
            if session.out.json() {
                return session.out.document(&created);
            }
            let role = crate::view::role(created.key.role);
            session.out.note(&format!(
                "key {} for a {role}, shown this once:",
                created.key.name
            ));
            session
                .out
                .bytes(format!("{}\n", created.secret).as_bytes())
        }
        Command::List => {
            let keys: Vec<Key> = session.api.get("/keys").await?;
            session.out.result(&keys, |view| view.keys(&keys))
        }
        Command::Delete { name } => {
            session
                .api
                .delete(&format!("/keys/{}", path_segment(&name)))
                .await?;
            let done = serde_json::json!({ "deleted": name });
            session
                .out
                .result(&done, |_| format!("key {name} is withdrawn\n"))
        }
    }
}
