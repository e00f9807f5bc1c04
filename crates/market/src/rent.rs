//! Renting: a quote holds its reservation, taking it makes a lease, and its
//! buyer may end it.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use surplus_protocol::api::{CreateLease, PriceBook, QuoteRequest};
use surplus_protocol::ids::{HostId, KeyId, LeaseId, QuoteId};
use surplus_protocol::lease::{EndReason, GuestSpec, LeaseState, MAX_PORTS};

use crate::images;
use crate::lease::{Action, Event, InvalidTransition, Lease};
use crate::placement::{self, Nowhere, Wish};
use crate::presence::Presence;
use crate::pricing;
use crate::records::{ImageRecord, LeaseRecord};
use crate::store::{LeaseFilter, StoreError, Tx};

/// How long a quote holds its reservation.
pub const QUOTE_LIFETIME: SignedDuration = SignedDuration::from_mins(5);

/// Longest window that can be bought: a year.
pub const MAX_SECONDS: u64 = 366 * 24 * 3600;

/// Addresses that one guest may have as its own.
pub const MAX_ADDRESSES: u32 = 1;

const MIB: u64 = 1 << 20;

/// Why there is no quote.
#[derive(Debug, thiserror::Error)]
pub enum QuoteError {
    #[error("a guest needs at least 1 vCPU, 16 MiB of memory in whole MiB, and a disk")]
    Size,
    #[error("a guest has at most {MAX_ADDRESSES} address of its own; {0} were asked for")]
    Addresses(u32),
    #[error("the window must be between 1 second and {MAX_SECONDS} seconds")]
    Window,
    #[error("a fence clause needs at least 60 seconds, which a reconnect may take")]
    Fence,
    #[error("{open} quotes are open, and a key may hold no more")]
    TooMany { open: usize },
    #[error(transparent)]
    Nowhere(#[from] Nowhere),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a quote did not become a lease.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("quote {0} is not known")]
    UnknownQuote(QuoteId),
    #[error("quote {quote} ran out at {at}")]
    Expired { quote: QuoteId, at: Timestamp },
    #[error("quote {quote} was taken already, by lease {lease}")]
    Taken { quote: QuoteId, lease: LeaseId },
    #[error("{0:?} is not a host name: letters, digits and hyphens, at most 63")]
    Name(String),
    #[error("image {0:?} is not in the image store")]
    UnknownImage(String),
    #[error("image {image:?} unfolds to {image_bytes} bytes, the lease's disk has {disk_bytes}")]
    DiskTooSmall {
        image: String,
        image_bytes: u64,
        disk_bytes: u64,
    },
    #[error("{0}")]
    Guest(&'static str),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Invalid(#[from] InvalidTransition),
}

/// Why a lease was not ended.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Invalid(#[from] InvalidTransition),
}

impl LeaseRecord {
    /// Takes a step and says what follows.
    ///
    /// # Errors
    ///
    /// [`InvalidTransition`]; the record is then as it was.
    pub fn apply(&mut self, event: Event) -> Result<Vec<Action>, InvalidTransition> {
        let (life, actions) = self.life.clone().step(event)?;
        self.life = life;
        Ok(actions)
    }

    /// Ends a quote that ran out, with nothing left to settle. Says whether it
    /// did.
    pub fn expire_quote(&mut self, now: Timestamp) -> bool {
        if self.life.state != LeaseState::Quoted || self.quote_expires_at > now {
            return false;
        }
        self.apply(Event::QuoteExpired { at: now }).is_ok() && self.apply(Event::Settle).is_ok()
    }

    /// Whether it holds a reservation at `now`.
    pub fn reserves(&self, now: Timestamp) -> bool {
        self.life.is_live()
            && (self.life.state != LeaseState::Quoted || self.quote_expires_at > now)
    }
}

/// Who asks for a quote, and the ids that it gets.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    pub owner: KeyId,
    pub quote: QuoteId,
    pub lease: LeaseId,
    /// Most quotes that it may hold open at once; none: any number.
    pub open_quotes: Option<usize>,
}

/// Finds a host, fixes the price and holds the reservation for a short time.
///
/// # Errors
///
/// [`QuoteError::Nowhere`] with each host's reason where none has room.
pub async fn quote<T: Tx>(
    tx: &mut T,
    presence: &Presence,
    now: Timestamp,
    asker: Asker,
    request: &QuoteRequest,
    book: &PriceBook,
) -> Result<LeaseRecord, QuoteError> {
    use surplus_protocol::lease::OnLostLink;
    let resources = request.resources;
    let whole = resources.memory_bytes.is_multiple_of(MIB);
    if resources.vcpus == 0
        || resources.memory_bytes < 16 * MIB
        || resources.disk_bytes == 0
        || !whole
    {
        return Err(QuoteError::Size);
    }
    if resources.addresses > MAX_ADDRESSES {
        return Err(QuoteError::Addresses(resources.addresses));
    }
    if !(1..=MAX_SECONDS).contains(&request.seconds) {
        return Err(QuoteError::Window);
    }
    if matches!(request.on_lost_link, OnLostLink::Fence { after_seconds } if after_seconds < 60) {
        return Err(QuoteError::Fence);
    }
    let hosts = tx.hosts().await?;
    let live = tx.leases(LeaseFilter::Live).await?;
    let open = |lease: &&LeaseRecord| {
        let is_quote = lease.life.state == LeaseState::Quoted;
        is_quote && lease.owner == asker.owner && lease.reserves(now)
    };
    let open = live.iter().filter(open).count();
    if asker.open_quotes.is_some_and(|most| open >= most) {
        return Err(QuoteError::TooMany { open });
    }
    let candidates = placement::candidates(&hosts, &live, presence, now);
    let wish = Wish {
        resources,
        site: request.site.as_deref(),
    };
    let host = placement::choose(&candidates, wish, book)?;
    let site = hosts
        .iter()
        .find(|h| h.id == host)
        .map(|h| h.site.clone())
        .unwrap_or_default();
    let record = LeaseRecord {
        id: asker.lease,
        quote: asker.quote,
        owner: asker.owner,
        host,
        site,
        wanted_site: request.site.clone(),
        resources,
        seconds: request.seconds,
        on_lost_link: request.on_lost_link,
        price: pricing::window(book, resources, request.seconds),
        currency: book.currency.clone(),
        price_book: book.version,
        quote_expires_at: now.saturating_add(QUOTE_LIFETIME).unwrap_or(Timestamp::MAX),
        created_at: now,
        ends_at: after(now, request.seconds),
        guest: None,
        life: Lease::quoted(),
        phase: None,
        detail: "quoted".to_owned(),
        addresses: Vec::new(),
        forwards: Vec::new(),
        disk: None,
    };
    tx.put_lease(&record).await?;
    Ok(record)
}

/// Turns the owner's quote into a lease of `image`; its window begins now.
///
/// # Errors
///
/// [`TakeError`] where the quote ran out or the guest makes no sense.
pub async fn take<T: Tx>(
    tx: &mut T,
    now: Timestamp,
    owner: KeyId,
    order: CreateLease,
) -> Result<LeaseRecord, TakeError> {
    let quote = order.quote;
    let found = tx
        .lease_of_quote(quote)
        .await?
        .filter(|lease| lease.owner == owner);
    let mut lease = found.ok_or(TakeError::UnknownQuote(quote))?;
    if lease.guest.is_some() {
        return Err(TakeError::Taken {
            quote,
            lease: lease.id,
        });
    }
    if !lease.reserves(now) {
        return Err(TakeError::Expired {
            quote,
            at: lease.quote_expires_at,
        });
    }
    let image = images::find(tx, owner, &order.image).await?;
    let image = image.ok_or_else(|| TakeError::UnknownImage(order.image.clone()))?;
    lease.guest = Some(guest(&lease, order, &image)?);
    lease.created_at = now;
    lease.ends_at = after(now, lease.seconds);
    "waits for the host".clone_into(&mut lease.detail);
    let actions = lease.apply(Event::Take)?;
    tx.put_lease(&lease).await?;
    tell_host(tx, lease.host, &actions).await?;
    Ok(lease)
}

/// Orders a lease to stop. One that no host ever heard of ends at once.
///
/// # Errors
///
/// [`EndError`] where it is a mere quote.
pub async fn end<T: Tx>(
    tx: &mut T,
    now: Timestamp,
    mut lease: LeaseRecord,
    reason: EndReason,
) -> Result<LeaseRecord, EndError> {
    let before = lease.clone();
    let actions = lease.apply(Event::Stop { reason, at: now })?;
    if !lease.life.is_live() && !lease.life.was_placed() {
        "ended before any host ran it".clone_into(&mut lease.detail);
        lease.apply(Event::Settle)?;
    }
    if lease != before {
        tx.put_lease(&lease).await?;
        tell_host(tx, lease.host, &actions).await?;
    }
    Ok(lease)
}

/// Takes it that whatever a host ran is gone, on an operator's word that the
/// machine is off: those leases end, or are lost and will be placed anew. Those
/// leases.
///
/// # Errors
///
/// Where the store fails.
pub async fn confirm_off<T: Tx>(
    tx: &mut T,
    now: Timestamp,
    host: HostId,
) -> Result<Vec<LeaseRecord>, EndError> {
    let mut gone = Vec::new();
    for mut lease in tx.leases(LeaseFilter::LiveOn(host)).await? {
        if !lease.life.is_placed() {
            continue;
        }
        let reason = lease.life.stop.unwrap_or(EndReason::Reclaimed);
        let why = "an operator confirmed that its host is off";
        let actions = lease.lose(reason, None, now, why)?;
        tx.put_lease(&lease).await?;
        tell_host(tx, host, &actions).await?;
        gone.push(lease);
    }
    Ok(gone)
}

/// Counts the host's generation up where its desired state changed.
pub(crate) async fn tell_host<T: Tx>(
    tx: &mut T,
    host: HostId,
    actions: &[Action],
) -> Result<(), StoreError> {
    if actions.contains(&Action::TellHost)
        && let Some(mut host) = tx.host(host).await?
    {
        host.generation = host.generation.saturating_add(1);
        tx.put_host(&host).await?;
    }
    Ok(())
}

fn guest(
    lease: &LeaseRecord,
    order: CreateLease,
    image: &ImageRecord,
) -> Result<GuestSpec, TakeError> {
    if !is_label(&order.name) {
        return Err(TakeError::Name(order.name));
    }
    if image.virtual_bytes > lease.resources.disk_bytes {
        return Err(TakeError::DiskTooSmall {
            image: image.name.clone(),
            image_bytes: image.virtual_bytes,
            disk_bytes: lease.resources.disk_bytes,
        });
    }
    if order
        .user_data
        .as_ref()
        .is_some_and(|data| data.len() > 256 << 10)
    {
        return Err(TakeError::Guest("user data is larger than 256 KiB"));
    }
    let is_key = |key: &String| key.len() < 16 << 10 && !key.contains(['\n', '\r', '\0']);
    if order.ssh_keys.len() > 64 || !order.ssh_keys.iter().all(is_key) {
        return Err(TakeError::Guest(
            "an SSH key must be one line, and at most 64 may be given",
        ));
    }
    let distinct: BTreeSet<_> = order.ports.iter().collect();
    if order.ports.len() > MAX_PORTS
        || distinct.len() < order.ports.len()
        || order.ports.iter().any(|it| it.port == 0)
    {
        return Err(TakeError::Guest(
            "a port is a number from 1 to 65535, and at most 16 different ones may be forwarded",
        ));
    }
    if lease.resources.addresses > 0 && !order.ports.is_empty() {
        return Err(TakeError::Guest(
            "a guest with an address of its own is reached at all of its ports; leave `ports` out",
        ));
    }
    Ok(GuestSpec {
        name: order.name,
        resources: lease.resources,
        image: image.digest,
        image_format: image.format,
        image_bytes: image.size_bytes,
        firmware: order.firmware,
        ssh_keys: order.ssh_keys,
        user_data: order.user_data,
        ports: order.ports,
        on_lost_link: lease.on_lost_link,
    })
}

fn is_label(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63
        && edge(name.chars().next())
        && edge(name.chars().next_back())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn after(now: Timestamp, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds.min(MAX_SECONDS)).unwrap_or(i64::MAX);
    now.saturating_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}
