//! The market's store in one SQLite file.
//!
//! What was acknowledged survives a power cut: write-ahead log with
//! `synchronous=FULL`. Writing transactions run one after the other on one
//! connection; readers see the last committed state and hold nobody up.
//!
//! Query texts keep to what PostgreSQL understands as well (`$1`, `ON CONFLICT
//! … DO UPDATE`).

mod columns;
mod rows;
mod tx;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use surplus_market::store::{Store, StoreError};

pub use tx::SqliteTx;

/// How many readers may look at once.
const READERS: u32 = 8;

/// The store. Clones share its connections.
#[derive(Clone, Debug)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the store {path}")]
    Connect {
        path: String,
        #[source]
        source: sqlx::Error,
    },
    #[error("cannot make the store {path}")]
    Create {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot bring the store {path} to this version's form")]
    Migrate {
        path: String,
        #[source]
        source: sqlx::migrate::MigrateError,
    },
}

impl SqliteStore {
    /// Opens the store, makes it where there is none, and brings it to this
    /// version's form.
    ///
    /// # Errors
    ///
    /// [`OpenError`] where the file cannot be used.
    pub async fn open(path: &Path) -> Result<Self, OpenError> {
        let name = || path.display().to_string();
        let connect = |source| OpenError::Connect {
            path: name(),
            source,
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        make_private(path).map_err(|source| OpenError::Create {
            path: name(),
            source,
        })?;
        let writer = SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options.clone().create_if_missing(true))
            .await
            .map_err(connect)?;
        sqlx::migrate!("migrations/sqlite")
            .run(&writer)
            .await
            .map_err(|source| OpenError::Migrate {
                path: name(),
                source,
            })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await
            .map_err(connect)?;
        Ok(Self { writer, readers })
    }

    /// Closes the connections once running transactions are done.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

impl Store for SqliteStore {
    type Tx = SqliteTx;

    async fn begin(&self) -> Result<SqliteTx, StoreError> {
        let began = self.writer.begin_with("BEGIN IMMEDIATE").await;
        Ok(SqliteTx::new(
            began.map_err(failed("begin to write"))?,
            true,
        ))
    }

    async fn read(&self) -> Result<SqliteTx, StoreError> {
        let began = self.readers.begin().await;
        Ok(SqliteTx::new(
            began.map_err(failed("begin to read"))?,
            false,
        ))
    }
}

/// Makes the file for its owner alone; SQLite gives its other files the same
/// mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
}

/// A store failure at `attempt`.
fn failed<E>(attempt: &'static str) -> impl FnOnce(E) -> StoreError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| StoreError::Failed {
        attempt,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! test {
        ($name:ident) => {
            #[tokio::test]
            async fn $name() {
                let dir = tempfile::tempdir().unwrap();
                let store = SqliteStore::open(&dir.path().join("store.db"))
                    .await
                    .unwrap();
                surplus_market::suite::$name(&store).await;
            }
        };
    }

    surplus_market::for_each_promise_of_a_store!(test);

    /// Rows as the first version wrote them.
    const OLD_ROWS: &str = "
        INSERT INTO keys VALUES ('00000000-0000-0000-0000-000000000001', 'admin', 'operator',
            'sha256:0101010101010101010101010101010101010101010101010101010101010101', 1);
        INSERT INTO tokens VALUES ('00000000-0000-0000-0000-000000000002', 'rack',
            'sha256:0202020202020202020202020202020202020202020202020202020202020202', 3, 1, NULL,
            '[\"10.0.0.0/8\"]', 1);
        INSERT INTO hosts (id, state, detail, site, key_storage, key, identity, enrolled_at,
            certificate_expires_at, former_boots, generation)
        VALUES ('00000000-0000-0000-0000-000000000003', 'quarantined', 'two of it', 'berlin', 'ram',
            'sha256:0303030303030303030303030303030303030303030303030303030303030303',
            '{\"system_uuid\":\"u\",\"system_serial\":null,\"board_serial\":null,\"vendor\":null,
              \"product\":null,\"macs\":[\"02:00:00:00:00:01\"]}',
            1, 2, '[{\"boot\":\"00000000-0000-0000-0000-000000000004\",\"sightings\":1}]', 7);
        INSERT INTO images VALUES (
            'sha256:0505050505050505050505050505050505050505050505050505050505050505', 'debian',
            'raw', 1, 1, '00000000-0000-0000-0000-000000000001', 1);
        INSERT INTO price_books VALUES (1, '{}');
        INSERT INTO leases (id, quote, owner, host, site, vcpus, memory_bytes, disk_bytes, seconds,
            on_lost_link, price, currency, price_book, quote_expires_at, created_at, ends_at,
            state, epoch, boot, detail, addresses)
        VALUES ('00000000-0000-0000-0000-000000000006', '00000000-0000-0000-0000-000000000007',
            '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000003',
            'berlin', 1, 1, 1, 60, '{\"clause\":\"fence\",\"after_seconds\":60}', 1, 'EUR', 1, 1,
            1, 2, 'active', 1, '00000000-0000-0000-0000-000000000004', 'runs', '[]');";

    #[tokio::test]
    async fn a_store_of_the_first_version_is_brought_to_this_ones_form() {
        use surplus_market::store::{LeaseFilter, Tx as _};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let all = sqlx::migrate!("migrations/sqlite");
        let first = all.iter().take(1).cloned().collect::<Vec<_>>();
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true);
        let old = SqlitePool::connect_with(options).await.unwrap();
        let first = sqlx::migrate::Migrator::with_migrations(first);
        first.run(&old).await.unwrap();
        sqlx::raw_sql(OLD_ROWS).execute(&old).await.unwrap();
        old.close().await;

        let store = SqliteStore::open(&path).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        let host = tx.hosts().await.unwrap().remove(0);
        assert_eq!((host.rack.as_str(), host.memory_bytes), ("", 0));
        assert_eq!((host.address, host.admitted_by.clone()), (None, None));
        assert_eq!(host.former_boots[0].address, None);
        assert_eq!(host.identity.macs.len(), 1);
        tx.put_host(&host).await.unwrap();
        let images = tx.images().await.unwrap();
        assert!(images[0].public, "an operator's image is for everybody");
        let lease = tx.leases(LeaseFilter::Live).await.unwrap().remove(0);
        assert!(lease.life.former.is_empty() && lease.life.lost.is_none());
        assert!(lease.was_on(host.id, 1) && !lease.was_on(host.id, 2));
        assert_eq!(
            lease.wanted_site.as_deref(),
            Some("berlin"),
            "it may have been asked for"
        );
        tx.put_lease(&lease).await.unwrap();
        assert_eq!(tx.lease(lease.id).await.unwrap(), Some(lease));
        assert_eq!(tx.tokens().await.unwrap()[0].used, 1);
        assert!(tx.admission_rules().await.unwrap().is_empty());
        tx.commit().await.unwrap();
    }
}
