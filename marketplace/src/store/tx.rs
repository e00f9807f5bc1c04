//! One transaction over SQLite.

use jiff::Timestamp;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{Transaction, query};
use surplus_market::records::{
    AdmissionRuleRecord, HostRecord, ImageRecord, KeyRecord, LeaseRecord, ReceiptRecord,
    TokenRecord,
};
use surplus_market::store::{LeaseFilter, StoreError, Tx};
use surplus_protocol::Digest;
use surplus_protocol::api::PriceBook;
use surplus_protocol::ids::{AdmissionRuleId, Epoch, HostId, KeyId, LeaseId, QuoteId};
use surplus_protocol::lease::UsageRecord;

use super::columns::{json, json_opt, number, time, time_opt, word, word_opt};
use super::{failed, rows};

/// One transaction; dropped without a commit, it is rolled back.
#[derive(Debug)]
pub struct SqliteTx {
    inner: Transaction<'static, Sqlite>,
    may_write: bool,
}

type Answer<T> = Result<T, StoreError>;
type Text = Query<'static, Sqlite, SqliteArguments>;

impl SqliteTx {
    pub(super) fn new(inner: Transaction<'static, Sqlite>, may_write: bool) -> Self {
        Self { inner, may_write }
    }

    async fn list<T>(&mut self, text: Text, read: fn(&SqliteRow) -> Answer<T>) -> Answer<Vec<T>> {
        let rows = text
            .fetch_all(&mut *self.inner)
            .await
            .map_err(failed("read rows"))?;
        rows.iter().map(read).collect()
    }

    async fn one<T>(&mut self, text: Text, read: fn(&SqliteRow) -> Answer<T>) -> Answer<Option<T>> {
        let row = text
            .fetch_optional(&mut *self.inner)
            .await
            .map_err(failed("read a row"))?;
        row.as_ref().map(read).transpose()
    }

    /// Writes; how many rows changed. A unique value that exists is `what`.
    async fn write(&mut self, text: Text, what: &'static str) -> Answer<u64> {
        if !self.may_write {
            return Err(StoreError::ReadOnly);
        }
        match text.execute(&mut *self.inner).await {
            Ok(done) => Ok(done.rows_affected()),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                Err(StoreError::Exists { what })
            }
            Err(error) => Err(failed("write a row")(error)),
        }
    }
}

impl Tx for SqliteTx {
    async fn commit(self) -> Answer<()> {
        self.inner.commit().await.map_err(failed("commit"))
    }

    async fn token(&mut self, hash: &Digest) -> Answer<Option<TokenRecord>> {
        let text = query("SELECT * FROM tokens WHERE hash = $1").bind(hash.to_string());
        self.one(text, rows::token).await
    }

    async fn tokens(&mut self) -> Answer<Vec<TokenRecord>> {
        self.list(query("SELECT * FROM tokens ORDER BY name"), rows::token)
            .await
    }

    async fn put_token(&mut self, token: &TokenRecord) -> Answer<()> {
        let text = query(
            "INSERT INTO tokens (id, name, hash, uses, used, expires_at, networks, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, hash = excluded.hash,
                 uses = excluded.uses, used = excluded.used, expires_at = excluded.expires_at,
                 networks = excluded.networks",
        )
        .bind(token.id.to_string())
        .bind(token.name.clone())
        .bind(token.hash.to_string())
        .bind(token.uses.map(i64::from))
        .bind(i64::from(token.used))
        .bind(time_opt(token.expires_at))
        .bind(json(&token.networks)?)
        .bind(time(token.created_at));
        self.write(text, "a token of that name").await.map(drop)
    }

    async fn delete_token(&mut self, name: &str) -> Answer<bool> {
        let text = query("DELETE FROM tokens WHERE name = $1").bind(name.to_owned());
        Ok(self.write(text, "a token").await? > 0)
    }

    async fn admission_rules(&mut self) -> Answer<Vec<AdmissionRuleRecord>> {
        let text = query("SELECT * FROM admission_rules ORDER BY created_at, id");
        self.list(text, rows::admission_rule).await
    }

    async fn put_admission_rule(&mut self, rule: &AdmissionRuleRecord) -> Answer<()> {
        let text = query(
            "INSERT INTO admission_rules (id, selectors, uses, used, expires_at, created_by,
                 created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (id) DO UPDATE SET selectors = excluded.selectors,
                 uses = excluded.uses, used = excluded.used, expires_at = excluded.expires_at",
        )
        .bind(rule.id.to_string())
        .bind(json(&rule.selectors)?)
        .bind(rule.uses.map(i64::from))
        .bind(i64::from(rule.used))
        .bind(time_opt(rule.expires_at))
        .bind(rule.created_by.clone())
        .bind(time(rule.created_at));
        self.write(text, "an admission rule").await.map(drop)
    }

    async fn delete_admission_rule(&mut self, id: AdmissionRuleId) -> Answer<bool> {
        let text = query("DELETE FROM admission_rules WHERE id = $1").bind(id.to_string());
        Ok(self.write(text, "an admission rule").await? > 0)
    }

    async fn key(&mut self, hash: &Digest) -> Answer<Option<KeyRecord>> {
        let text = query("SELECT * FROM keys WHERE hash = $1").bind(hash.to_string());
        self.one(text, rows::key).await
    }

    async fn keys(&mut self) -> Answer<Vec<KeyRecord>> {
        self.list(query("SELECT * FROM keys ORDER BY name"), rows::key)
            .await
    }

    async fn put_key(&mut self, key: &KeyRecord) -> Answer<()> {
        let text = query(
            "INSERT INTO keys (id, name, role, hash, created_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, role = excluded.role,
                 hash = excluded.hash",
        )
        .bind(key.id.to_string())
        .bind(key.name.clone())
        .bind(word(&key.role)?)
        .bind(key.hash.to_string())
        .bind(time(key.created_at));
        self.write(text, "an API key of that name").await.map(drop)
    }

    async fn delete_key(&mut self, name: &str) -> Answer<bool> {
        let text = query("DELETE FROM keys WHERE name = $1").bind(name.to_owned());
        Ok(self.write(text, "an API key").await? > 0)
    }

    async fn host(&mut self, id: HostId) -> Answer<Option<HostRecord>> {
        let text = query("SELECT * FROM hosts WHERE id = $1").bind(id.to_string());
        self.one(text, rows::host).await
    }

    async fn host_of_key(&mut self, key: &Digest) -> Answer<Option<HostRecord>> {
        let text =
            query("SELECT * FROM hosts WHERE key = $1 OR next_key = $1").bind(key.to_string());
        self.one(text, rows::host).await
    }

    async fn hosts(&mut self) -> Answer<Vec<HostRecord>> {
        self.list(query("SELECT * FROM hosts ORDER BY id"), rows::host)
            .await
    }

    async fn put_host(&mut self, host: &HostRecord) -> Answer<()> {
        let text = query(PUT_HOST)
            .bind(host.id.to_string())
            .bind(word(&host.state)?)
            .bind(host.detail.clone())
            .bind(host.site.clone())
            .bind(host.key_storage.clone())
            .bind(host.key.to_string())
            .bind(host.next_key.map(|key| key.to_string()))
            .bind(json(&host.identity)?)
            .bind(time(host.enrolled_at))
            .bind(time(host.certificate_expires_at))
            .bind(time_opt(host.last_seen_at))
            .bind(host.boot.map(|boot| boot.to_string()))
            .bind(json(&host.former_boots)?)
            .bind(json_opt(host.inventory.as_ref())?)
            .bind(json_opt(host.capacity.as_ref())?)
            .bind(number(host.generation))
            .bind(host.replaced_by.map(|id| id.to_string()))
            .bind(host.rack.clone())
            .bind(host.cpu_model.clone())
            .bind(number(host.memory_bytes))
            .bind(host.address.map(|address| address.to_string()))
            .bind(json_opt(host.admitted_by.as_ref())?);
        self.write(text, "a host with that key").await.map(drop)
    }

    async fn delete_host(&mut self, id: HostId) -> Answer<bool> {
        let text = query("DELETE FROM hosts WHERE id = $1").bind(id.to_string());
        Ok(self.write(text, "a host").await? > 0)
    }

    async fn touch_hosts(&mut self, seen: &[(HostId, Timestamp)]) -> Answer<()> {
        for (id, at) in seen {
            let text = query(
                "UPDATE hosts SET last_seen_at = $2
                 WHERE id = $1 AND (last_seen_at IS NULL OR last_seen_at < $2)",
            )
            .bind(id.to_string())
            .bind(time(*at));
            self.write(text, "a host").await?;
        }
        Ok(())
    }

    async fn lease(&mut self, id: LeaseId) -> Answer<Option<LeaseRecord>> {
        let text = query("SELECT * FROM leases WHERE id = $1").bind(id.to_string());
        self.one(text, rows::lease).await
    }

    async fn lease_of_quote(&mut self, quote: QuoteId) -> Answer<Option<LeaseRecord>> {
        let text = query("SELECT * FROM leases WHERE quote = $1").bind(quote.to_string());
        self.one(text, rows::lease).await
    }

    async fn leases(&mut self, filter: LeaseFilter) -> Answer<Vec<LeaseRecord>> {
        let text = match filter {
            LeaseFilter::All => query("SELECT * FROM leases ORDER BY id"),
            LeaseFilter::Owner(owner) => {
                query("SELECT * FROM leases WHERE owner = $1 ORDER BY id").bind(owner.to_string())
            }
            LeaseFilter::Live => {
                query("SELECT * FROM leases WHERE state NOT IN ('ended', 'settled') ORDER BY id")
            }
            LeaseFilter::LiveOn(host) => query(
                "SELECT * FROM leases
                 WHERE host = $1 AND state NOT IN ('ended', 'settled') ORDER BY id",
            )
            .bind(host.to_string()),
            LeaseFilter::Unsettled => {
                query("SELECT * FROM leases WHERE state = 'ended' ORDER BY id")
            }
        };
        self.list(text, rows::lease).await
    }

    async fn put_lease(&mut self, lease: &LeaseRecord) -> Answer<()> {
        let life = &lease.life;
        let text = query(PUT_LEASE)
            .bind(lease.id.to_string())
            .bind(lease.quote.to_string())
            .bind(lease.owner.to_string())
            .bind(lease.host.to_string())
            .bind(lease.site.clone())
            .bind(i64::from(lease.resources.vcpus))
            .bind(number(lease.resources.memory_bytes))
            .bind(number(lease.resources.disk_bytes))
            .bind(number(lease.seconds))
            .bind(json(&lease.on_lost_link)?)
            .bind(lease.price.0)
            .bind(lease.currency.clone())
            .bind(i64::from(lease.price_book))
            .bind(time(lease.quote_expires_at))
            .bind(time(lease.created_at))
            .bind(time(lease.ends_at))
            .bind(json_opt(lease.guest.as_ref())?)
            .bind(word(&life.state)?)
            .bind(number(life.epoch))
            .bind(life.boot.map(|boot| boot.to_string()))
            .bind(word_opt(life.stop.as_ref())?)
            .bind(time_opt(life.reclaim_at))
            .bind(time_opt(life.started_at))
            .bind(time_opt(life.ended_at))
            .bind(word_opt(life.end_reason.as_ref())?)
            .bind(word_opt(lease.phase.as_ref())?)
            .bind(lease.detail.clone())
            .bind(json(&lease.addresses)?)
            .bind(json(&life.former)?)
            .bind(json_opt(life.lost.as_ref())?)
            .bind(lease.wanted_site.clone())
            .bind(json(&lease.forwards)?)
            .bind(json_opt(lease.disk.as_ref())?)
            .bind(i64::from(lease.resources.addresses));
        self.write(text, "a lease of that quote").await.map(drop)
    }

    async fn purge_quotes(&mut self, before: Timestamp) -> Answer<u64> {
        let text = query(
            "DELETE FROM leases
             WHERE state = 'settled' AND guest IS NULL AND quote_expires_at < $1",
        )
        .bind(time(before));
        self.write(text, "a quote").await
    }

    async fn add_usage(&mut self, record: &UsageRecord, late: bool) -> Answer<bool> {
        let text = query(
            "INSERT INTO usage (lease, epoch, seq, measured_at, running_millis, cpu_millis,
                 rx_bytes, tx_bytes, late)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (lease, epoch, seq) DO NOTHING",
        )
        .bind(record.lease.to_string())
        .bind(number(record.epoch))
        .bind(number(record.seq))
        .bind(time(record.measured_at))
        .bind(number(record.running_millis))
        .bind(number(record.cpu_millis))
        .bind(number(record.rx_bytes))
        .bind(number(record.tx_bytes))
        .bind(i64::from(late));
        Ok(self.write(text, "a usage record").await? > 0)
    }

    async fn usage(&mut self, lease: LeaseId) -> Answer<Vec<UsageRecord>> {
        let text = query(
            "SELECT * FROM usage AS u WHERE lease = $1 AND late = 0 AND seq =
                 (SELECT max(seq) FROM usage AS l
                  WHERE l.lease = u.lease AND l.epoch = u.epoch AND l.late = 0)
             ORDER BY epoch",
        )
        .bind(lease.to_string());
        self.list(text, rows::usage).await
    }

    async fn add_receipt(&mut self, receipt: &ReceiptRecord) -> Answer<bool> {
        let text = query(
            "INSERT INTO receipts (lease, epoch, host, signed, received_at)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (lease, epoch) DO NOTHING",
        )
        .bind(receipt.lease.to_string())
        .bind(number(receipt.epoch))
        .bind(receipt.host.to_string())
        .bind(receipt.signed.clone())
        .bind(time(receipt.received_at));
        Ok(self.write(text, "a receipt").await? > 0)
    }

    async fn receipts(&mut self, lease: LeaseId) -> Answer<Vec<Epoch>> {
        let text = query("SELECT epoch FROM receipts WHERE lease = $1 ORDER BY epoch")
            .bind(lease.to_string());
        self.list(text, rows::epoch).await
    }

    async fn images(&mut self) -> Answer<Vec<ImageRecord>> {
        let text = query("SELECT * FROM images ORDER BY name, owner");
        self.list(text, rows::image).await
    }

    async fn put_image(&mut self, image: &ImageRecord) -> Answer<()> {
        let text = query(
            "INSERT INTO images (owner, name, digest, format, size_bytes, virtual_bytes, public,
                 added_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(image.owner.to_string())
        .bind(image.name.clone())
        .bind(image.digest.to_string())
        .bind(word(&image.format)?)
        .bind(number(image.size_bytes))
        .bind(number(image.virtual_bytes))
        .bind(i64::from(image.public))
        .bind(time(image.added_at));
        self.write(text, "an image of that name").await.map(drop)
    }

    async fn delete_image(&mut self, owner: KeyId, name: &str) -> Answer<bool> {
        let text = query("DELETE FROM images WHERE owner = $1 AND name = $2")
            .bind(owner.to_string())
            .bind(name.to_owned());
        Ok(self.write(text, "an image").await? > 0)
    }

    async fn price_book(&mut self, version: u32) -> Answer<Option<PriceBook>> {
        let text = query("SELECT * FROM price_books WHERE version = $1").bind(i64::from(version));
        self.one(text, |row| super::columns::Columns(row).json("book"))
            .await
    }

    async fn add_price_book(&mut self, book: &PriceBook) -> Answer<()> {
        let text = query("INSERT INTO price_books (version, book) VALUES ($1, $2)")
            .bind(i64::from(book.version))
            .bind(json(book)?);
        self.write(text, "a price book of that version")
            .await
            .map(drop)
    }
}

const PUT_HOST: &str = "INSERT INTO hosts (id, state, detail, site, key_storage, key, next_key,
         identity, enrolled_at, certificate_expires_at, last_seen_at, boot, former_boots,
         inventory, capacity, generation, replaced_by, rack, cpu_model, memory_bytes, address,
         admitted_by)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
         $20, $21, $22)
     ON CONFLICT (id) DO UPDATE SET state = excluded.state, detail = excluded.detail,
         site = excluded.site, key_storage = excluded.key_storage, key = excluded.key,
         next_key = excluded.next_key, identity = excluded.identity,
         enrolled_at = excluded.enrolled_at,
         certificate_expires_at = excluded.certificate_expires_at,
         last_seen_at = excluded.last_seen_at, boot = excluded.boot,
         former_boots = excluded.former_boots, inventory = excluded.inventory,
         capacity = excluded.capacity, generation = excluded.generation,
         replaced_by = excluded.replaced_by, rack = excluded.rack,
         cpu_model = excluded.cpu_model, memory_bytes = excluded.memory_bytes,
         address = excluded.address, admitted_by = excluded.admitted_by";

const PUT_LEASE: &str = "INSERT INTO leases (id, quote, owner, host, site, vcpus, memory_bytes,
         disk_bytes, seconds, on_lost_link, price, currency, price_book, quote_expires_at,
         created_at, ends_at, guest, state, epoch, boot, stop, reclaim_at, started_at, ended_at,
         end_reason, phase, detail, addresses, former, lost, wanted_site,
         forwards, disk_end, own_addresses)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
         $20, $21, $22, $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, $33, $34)
     ON CONFLICT (id) DO UPDATE SET created_at = excluded.created_at, ends_at = excluded.ends_at,
         host = excluded.host, site = excluded.site, guest = excluded.guest,
         state = excluded.state, epoch = excluded.epoch, boot = excluded.boot,
         stop = excluded.stop, reclaim_at = excluded.reclaim_at,
         started_at = excluded.started_at, ended_at = excluded.ended_at,
         end_reason = excluded.end_reason, phase = excluded.phase, detail = excluded.detail,
         addresses = excluded.addresses, former = excluded.former, lost = excluded.lost,
         forwards = excluded.forwards, disk_end = excluded.disk_end";
