//! A store in memory, for simulations and tests. Its futures are ready at once
//! unless another transaction is open.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::lock::{Mutex, OwnedMutexGuard};
use jiff::Timestamp;
use surplus_protocol::Digest;
use surplus_protocol::api::PriceBook;
use surplus_protocol::ids::{AdmissionRuleId, Epoch, HostId, KeyId, LeaseId, QuoteId, TokenId};
use surplus_protocol::lease::{LeaseState, UsageRecord};
use surplus_safeguard::{Safeguard, stands};

use crate::records::{
    AdmissionRuleRecord, HostRecord, ImageRecord, KeyRecord, LeaseRecord, ReceiptRecord,
    TokenRecord,
};
use crate::store::{LeaseFilter, Store, StoreError, Tx};

#[derive(Clone, Debug, Default)]
struct Tables {
    tokens: BTreeMap<TokenId, TokenRecord>,
    rules: BTreeMap<AdmissionRuleId, AdmissionRuleRecord>,
    keys: BTreeMap<KeyId, KeyRecord>,
    hosts: BTreeMap<HostId, HostRecord>,
    hosts_by_key: BTreeMap<Digest, HostId>,
    leases: BTreeMap<LeaseId, LeaseRecord>,
    leases_by_quote: BTreeMap<QuoteId, LeaseId>,
    /// Indexes, derived from `leases`.
    live: BTreeSet<(HostId, LeaseId)>,
    unsettled: BTreeSet<LeaseId>,
    usage: BTreeMap<(LeaseId, Epoch, u64), (UsageRecord, bool)>,
    receipts: BTreeMap<(LeaseId, Epoch), ReceiptRecord>,
    /// By name, then by owner.
    images: BTreeMap<(String, KeyId), ImageRecord>,
    books: BTreeMap<u32, PriceBook>,
}

/// The store. Clones share what is in it.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Tables>>);

impl MemoryStore {
    /// A store of its own with what is in this one now, as a backup has it.
    pub async fn backup(&self) -> Self {
        let tables = Arc::clone(&self.0).lock_owned().await;
        Self(Arc::new(Mutex::new(tables.clone())))
    }
}

type Undo = Box<dyn FnOnce(&mut Tables) + Send>;

/// A transaction: it holds the store alone and can take back what it did.
pub struct MemoryTx {
    tables: OwnedMutexGuard<Tables>,
    undo: Vec<Undo>,
    may_write: bool,
}

impl std::fmt::Debug for MemoryTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryTx")
            .field("undo", &self.undo.len())
            .finish_non_exhaustive()
    }
}

impl Drop for MemoryTx {
    fn drop(&mut self) {
        while let Some(undo) = self.undo.pop() {
            undo(&mut self.tables);
        }
    }
}

impl Store for MemoryStore {
    type Tx = MemoryTx;

    async fn begin(&self) -> Result<MemoryTx, StoreError> {
        let tables = self.0.clone().lock_owned().await;
        Ok(MemoryTx {
            tables,
            undo: Vec::new(),
            may_write: true,
        })
    }

    async fn read(&self) -> Result<MemoryTx, StoreError> {
        let mut tx = self.begin().await?;
        tx.may_write = false;
        Ok(tx)
    }
}

impl Tables {
    /// Puts a lease, or takes it away, and keeps the indexes true.
    fn set_lease(&mut self, id: LeaseId, lease: Option<LeaseRecord>) -> Option<LeaseRecord> {
        let old = match lease {
            Some(lease) => self.leases.insert(id, lease),
            None => self.leases.remove(&id),
        };
        if let Some(old) = &old {
            self.live.remove(&(old.host, id));
            self.unsettled.remove(&id);
            self.leases_by_quote.remove(&old.quote);
        }
        if let Some(new) = self.leases.get(&id) {
            if new.life.is_live() {
                self.live.insert((new.host, id));
            }
            if new.life.state == LeaseState::Ended {
                self.unsettled.insert(id);
            }
            self.leases_by_quote.insert(new.quote, id);
        }
        old
    }

    fn set_host(&mut self, id: HostId, host: Option<HostRecord>) -> Option<HostRecord> {
        let old = match host {
            Some(host) => self.hosts.insert(id, host),
            None => self.hosts.remove(&id),
        };
        if let Some(old) = &old {
            for key in [Some(old.key), old.next_key].into_iter().flatten() {
                self.hosts_by_key.remove(&key);
            }
        }
        if let Some(new) = self.hosts.get(&id) {
            for key in [Some(new.key), new.next_key].into_iter().flatten() {
                self.hosts_by_key.insert(key, id);
            }
        }
        old
    }
}

fn restore<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, old: Option<V>) {
    match old {
        Some(old) => map.insert(key, old),
        None => map.remove(&key),
    };
}

impl MemoryTx {
    fn writable(&self) -> Result<(), StoreError> {
        if self.may_write {
            Ok(())
        } else {
            Err(StoreError::ReadOnly)
        }
    }

    fn undo(&mut self, undo: impl FnOnce(&mut Tables) + Send + 'static) {
        self.undo.push(Box::new(undo));
    }
}

fn taken(yes: bool, what: &'static str) -> Result<(), StoreError> {
    if yes {
        Err(StoreError::Exists { what })
    } else {
        Ok(())
    }
}

impl Tx for MemoryTx {
    async fn commit(mut self) -> Result<(), StoreError> {
        self.undo.clear();
        Ok(())
    }

    async fn token(&mut self, hash: &Digest) -> Result<Option<TokenRecord>, StoreError> {
        Ok(self
            .tables
            .tokens
            .values()
            .find(|token| token.hash == *hash)
            .cloned())
    }

    async fn tokens(&mut self) -> Result<Vec<TokenRecord>, StoreError> {
        let mut tokens: Vec<_> = self.tables.tokens.values().cloned().collect();
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tokens)
    }

    async fn put_token(&mut self, token: &TokenRecord) -> Result<(), StoreError> {
        self.writable()?;
        let id = token.id;
        let same = |t: &TokenRecord| t.id != id && t.name == token.name;
        taken(
            self.tables.tokens.values().any(same),
            "a token of that name",
        )?;
        let old = self.tables.tokens.insert(id, token.clone());
        self.undo(move |t| restore(&mut t.tokens, id, old));
        Ok(())
    }

    async fn delete_token(&mut self, name: &str) -> Result<bool, StoreError> {
        self.writable()?;
        let Some(id) = self
            .tables
            .tokens
            .values()
            .find(|t| t.name == name)
            .map(|t| t.id)
        else {
            return Ok(false);
        };
        let old = self.tables.tokens.remove(&id);
        self.undo(move |t| restore(&mut t.tokens, id, old));
        Ok(true)
    }

    async fn admission_rules(&mut self) -> Result<Vec<AdmissionRuleRecord>, StoreError> {
        let mut rules: Vec<_> = self.tables.rules.values().cloned().collect();
        rules.sort_by_key(|rule| (rule.created_at, rule.id));
        Ok(rules)
    }

    async fn put_admission_rule(&mut self, rule: &AdmissionRuleRecord) -> Result<(), StoreError> {
        self.writable()?;
        let id = rule.id;
        let old = self.tables.rules.insert(id, rule.clone());
        self.undo(move |t| restore(&mut t.rules, id, old));
        Ok(())
    }

    async fn delete_admission_rule(&mut self, id: AdmissionRuleId) -> Result<bool, StoreError> {
        self.writable()?;
        let old = self.tables.rules.remove(&id);
        let found = old.is_some();
        self.undo(move |t| restore(&mut t.rules, id, old));
        Ok(found)
    }

    async fn key(&mut self, hash: &Digest) -> Result<Option<KeyRecord>, StoreError> {
        Ok(self
            .tables
            .keys
            .values()
            .find(|key| key.hash == *hash)
            .cloned())
    }

    async fn keys(&mut self) -> Result<Vec<KeyRecord>, StoreError> {
        let mut keys: Vec<_> = self.tables.keys.values().cloned().collect();
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(keys)
    }

    async fn put_key(&mut self, key: &KeyRecord) -> Result<(), StoreError> {
        self.writable()?;
        let id = key.id;
        let same = |k: &KeyRecord| k.id != id && k.name == key.name;
        taken(
            self.tables.keys.values().any(same),
            "an API key of that name",
        )?;
        let old = self.tables.keys.insert(id, key.clone());
        self.undo(move |t| restore(&mut t.keys, id, old));
        Ok(())
    }

    async fn delete_key(&mut self, name: &str) -> Result<bool, StoreError> {
        self.writable()?;
        let Some(id) = self
            .tables
            .keys
            .values()
            .find(|k| k.name == name)
            .map(|k| k.id)
        else {
            return Ok(false);
        };
        let old = self.tables.keys.remove(&id);
        self.undo(move |t| restore(&mut t.keys, id, old));
        Ok(true)
    }

    async fn host(&mut self, id: HostId) -> Result<Option<HostRecord>, StoreError> {
        Ok(self.tables.hosts.get(&id).cloned())
    }

    async fn host_of_key(&mut self, key: &Digest) -> Result<Option<HostRecord>, StoreError> {
        let tables = &*self.tables;
        Ok(tables
            .hosts_by_key
            .get(key)
            .and_then(|id| tables.hosts.get(id))
            .cloned())
    }

    async fn hosts(&mut self) -> Result<Vec<HostRecord>, StoreError> {
        Ok(self.tables.hosts.values().cloned().collect())
    }

    async fn put_host(&mut self, host: &HostRecord) -> Result<(), StoreError> {
        self.writable()?;
        let id = host.id;
        let keys = [Some(host.key), host.next_key];
        let mut owners = keys
            .iter()
            .flatten()
            .filter_map(|key| self.tables.hosts_by_key.get(key));
        let other = owners.any(|owner| *owner != id);
        taken(other, "a host with that key")?;
        let old = self.tables.set_host(id, Some(host.clone()));
        self.undo(move |t| drop(t.set_host(id, old)));
        Ok(())
    }

    async fn delete_host(&mut self, id: HostId) -> Result<bool, StoreError> {
        self.writable()?;
        let old = self.tables.set_host(id, None);
        let found = old.is_some();
        self.undo(move |t| drop(t.set_host(id, old)));
        Ok(found)
    }

    async fn touch_hosts(&mut self, seen: &[(HostId, Timestamp)]) -> Result<(), StoreError> {
        self.writable()?;
        for (id, at) in seen {
            if let Some(mut host) = self.tables.hosts.get(id).cloned() {
                host.last_seen_at = host.last_seen_at.max(Some(*at));
                self.put_host(&host).await?;
            }
        }
        Ok(())
    }

    async fn lease(&mut self, id: LeaseId) -> Result<Option<LeaseRecord>, StoreError> {
        Ok(self.tables.leases.get(&id).cloned())
    }

    async fn lease_of_quote(&mut self, quote: QuoteId) -> Result<Option<LeaseRecord>, StoreError> {
        let tables = &*self.tables;
        Ok(tables
            .leases_by_quote
            .get(&quote)
            .and_then(|id| tables.leases.get(id))
            .cloned())
    }

    async fn leases(&mut self, filter: LeaseFilter) -> Result<Vec<LeaseRecord>, StoreError> {
        let tables = &*self.tables;
        let all = || tables.leases.values().cloned();
        let mut leases: Vec<_> = match filter {
            LeaseFilter::All => all().collect(),
            LeaseFilter::Owner(owner) => all().filter(|lease| lease.owner == owner).collect(),
            LeaseFilter::Live => tables
                .live
                .iter()
                .filter_map(|(_, id)| tables.leases.get(id))
                .cloned()
                .collect(),
            LeaseFilter::LiveOn(host) => tables
                .live
                .range((host, LeaseId::nil())..=(host, LeaseId::max()))
                .filter_map(|(_, id)| tables.leases.get(id))
                .cloned()
                .collect(),
            LeaseFilter::Unsettled => tables
                .unsettled
                .iter()
                .filter_map(|id| tables.leases.get(id))
                .cloned()
                .collect(),
        };
        leases.sort_by_key(|lease| lease.id);
        Ok(leases)
    }

    async fn put_lease(&mut self, lease: &LeaseRecord) -> Result<(), StoreError> {
        self.writable()?;
        let id = lease.id;
        let old = self.tables.set_lease(id, Some(lease.clone()));
        self.undo(move |t| drop(t.set_lease(id, old)));
        Ok(())
    }

    async fn purge_quotes(&mut self, before: Timestamp) -> Result<u64, StoreError> {
        let is_over = |lease: &&LeaseRecord| {
            lease.life.state == LeaseState::Settled
                && lease.guest.is_none()
                && lease.quote_expires_at < before
        };
        let leases = self.tables.leases.values();
        let over: Vec<_> = leases.filter(is_over).map(|lease| lease.id).collect();
        if !over.is_empty() {
            self.writable()?;
        }
        for id in &over {
            let (id, old) = (*id, self.tables.set_lease(*id, None));
            self.undo(move |t| drop(t.set_lease(id, old)));
        }
        Ok(over.len() as u64)
    }

    async fn add_usage(&mut self, record: &UsageRecord, late: bool) -> Result<bool, StoreError> {
        self.writable()?;
        let arrival = self.tables.usage.len() as u64;
        let number = if stands(Safeguard::UsageKey) {
            record.seq
        } else {
            arrival
        };
        let key = (record.lease, record.epoch, number);
        if self.tables.usage.contains_key(&key) {
            return Ok(false);
        }
        self.tables.usage.insert(key, (record.clone(), late));
        self.undo(move |t| restore(&mut t.usage, key, None));
        Ok(true)
    }

    async fn usage(&mut self, lease: LeaseId) -> Result<Vec<UsageRecord>, StoreError> {
        let range = (lease, Epoch::MIN, u64::MIN)..=(lease, Epoch::MAX, u64::MAX);
        let mut last = BTreeMap::new();
        for ((_, epoch, _), (record, late)) in self.tables.usage.range(range) {
            if !late {
                last.insert(*epoch, record.clone());
            }
        }
        Ok(last.into_values().collect())
    }

    async fn receipts(&mut self, lease: LeaseId) -> Result<Vec<Epoch>, StoreError> {
        let range = (lease, Epoch::MIN)..=(lease, Epoch::MAX);
        let receipts = self.tables.receipts.range(range);
        Ok(receipts.map(|((_, epoch), _)| *epoch).collect())
    }

    async fn add_receipt(&mut self, receipt: &ReceiptRecord) -> Result<bool, StoreError> {
        self.writable()?;
        let key = (receipt.lease, receipt.epoch);
        if self.tables.receipts.contains_key(&key) {
            return Ok(false);
        }
        self.tables.receipts.insert(key, receipt.clone());
        self.undo(move |t| restore(&mut t.receipts, key, None));
        Ok(true)
    }

    async fn images(&mut self) -> Result<Vec<ImageRecord>, StoreError> {
        Ok(self.tables.images.values().cloned().collect())
    }

    async fn put_image(&mut self, image: &ImageRecord) -> Result<(), StoreError> {
        self.writable()?;
        let id = (image.name.clone(), image.owner);
        taken(
            self.tables.images.contains_key(&id),
            "an image of that name",
        )?;
        self.tables.images.insert(id.clone(), image.clone());
        self.undo(move |t| restore(&mut t.images, id, None));
        Ok(())
    }

    async fn delete_image(&mut self, owner: KeyId, name: &str) -> Result<bool, StoreError> {
        self.writable()?;
        let id = (name.to_owned(), owner);
        let old = self.tables.images.remove(&id);
        let found = old.is_some();
        self.undo(move |t| restore(&mut t.images, id, old));
        Ok(found)
    }

    async fn price_book(&mut self, version: u32) -> Result<Option<PriceBook>, StoreError> {
        Ok(self.tables.books.get(&version).cloned())
    }

    async fn add_price_book(&mut self, book: &PriceBook) -> Result<(), StoreError> {
        self.writable()?;
        let version = book.version;
        taken(
            self.tables.books.contains_key(&version),
            "a price book of that version",
        )?;
        self.tables.books.insert(version, book.clone());
        self.undo(move |t| restore(&mut t.books, version, None));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::MemoryStore;
    use crate::suite;

    macro_rules! test {
        ($name:ident) => {
            #[test]
            fn $name() {
                let store = MemoryStore::default();
                let run = suite::$name(&store);
                run.now_or_never()
                    .expect("the store's futures are ready at once");
            }
        };
    }

    crate::for_each_promise_of_a_store!(test);
}
