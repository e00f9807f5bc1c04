//! libvirt's event loop and the lifecycle events out of it.

#![allow(
    unsafe_code,
    reason = "the safe bindings have no domain events; this module registers them in C"
)]

use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::{mem, thread};

use tokio::sync::broadcast;
use virt::connect::Connect;

/// Something happened to a domain. A hint to look, not the truth: events are
/// lost while the daemon restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifecycle {
    pub domain: String,
    pub moment: Moment,
}

/// What happened (`virDomainEventType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Started,
    Paused,
    Resumed,
    /// The guest has powered itself off and QEMU is about to go.
    ShuttingDown,
    Stopped,
    Crashed,
    Other,
}

impl Moment {
    fn from_raw(raw: c_int) -> Self {
        match u32::try_from(raw) {
            Ok(virt_sys::VIR_DOMAIN_EVENT_STARTED) => Self::Started,
            Ok(virt_sys::VIR_DOMAIN_EVENT_SUSPENDED) => Self::Paused,
            Ok(virt_sys::VIR_DOMAIN_EVENT_RESUMED) => Self::Resumed,
            Ok(virt_sys::VIR_DOMAIN_EVENT_SHUTDOWN) => Self::ShuttingDown,
            Ok(virt_sys::VIR_DOMAIN_EVENT_STOPPED) => Self::Stopped,
            Ok(virt_sys::VIR_DOMAIN_EVENT_CRASHED) => Self::Crashed,
            _ => Self::Other,
        }
    }
}

/// Starts the process's event loop, once. It must be registered before the
/// first connection is opened, or that connection delivers no events.
pub(crate) fn start_loop() {
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        // Otherwise libvirt prints every error on standard error as well.
        virt::error::clear_error_callback();
        if let Err(error) = virt::event::event_register_default_impl() {
            tracing::error!(%error, "libvirt's event loop cannot be registered; no events");
            return;
        }
        let spawned = thread::Builder::new()
            .name("libvirt-events".into())
            .spawn(|| {
                loop {
                    if let Err(error) = virt::event::event_run_default_impl() {
                        tracing::warn!(%error, "libvirt's event loop failed; running it again");
                        thread::sleep(std::time::Duration::from_secs(1));
                    }
                }
            });
        if let Err(error) = spawned {
            tracing::error!(%error, "libvirt's event thread cannot be started; no events");
        }
    });
}

type Events = broadcast::Sender<Lifecycle>;

/// The registration of a connection's lifecycle events.
#[derive(Debug)]
pub(crate) struct Registration {
    id: c_int,
}

/// Sends the connection's lifecycle events to `events` from now on.
pub(crate) fn register(
    connect: &Connect,
    events: Events,
) -> Result<Registration, virt::error::Error> {
    let opaque = Box::into_raw(Box::new(events)).cast::<c_void>();
    // SAFETY: for `VIR_DOMAIN_EVENT_ID_LIFECYCLE` libvirt calls the callback
    // with the signature of `virConnectDomainEventCallback`, which is
    // `on_lifecycle`'s; the generic pointer type is how its API asks for it
    // (libvirt-domain.h, VIR_DOMAIN_EVENT_CALLBACK).
    let callback = unsafe {
        mem::transmute::<
            virt_sys::virConnectDomainEventCallback,
            virt_sys::virConnectDomainEventGenericCallback,
        >(Some(on_lifecycle))
    };
    // SAFETY: the connection is open, a null domain means all domains, and
    // `opaque` stays valid until libvirt calls `free_events` with it.
    let id = unsafe {
        virt_sys::virConnectDomainEventRegisterAny(
            connect.as_ptr(),
            std::ptr::null_mut(),
            virt_sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE.cast_signed(),
            callback,
            opaque,
            Some(free_events),
        )
    };
    if id < 0 {
        let error = virt::error::Error::last_error();
        // SAFETY: the registration failed, so libvirt did not keep `opaque` and
        // will never free it; it came from `Box::into_raw` above.
        drop(unsafe { Box::from_raw(opaque.cast::<Events>()) });
        return Err(error);
    }
    Ok(Registration { id })
}

impl Registration {
    /// Ends the registration, so that the connection can be closed for good.
    pub(crate) fn end(self, connect: &Connect) {
        // SAFETY: the connection is open and the id was given for it. Failing
        // only means that the registration went away with the daemon.
        let _ = unsafe { virt_sys::virConnectDomainEventDeregisterAny(connect.as_ptr(), self.id) };
    }
}

/// Called on the event thread. Must not unwind into C: nothing here panics.
unsafe extern "C" fn on_lifecycle(
    _connect: virt_sys::virConnectPtr,
    domain: virt_sys::virDomainPtr,
    event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: libvirt passes the pointer that `register` gave it, and frees it
    // only after the last call.
    let events = unsafe { &*opaque.cast::<Events>() };
    // SAFETY: libvirt holds `domain` valid for the length of the call.
    let name = unsafe { virt_sys::virDomainGetName(domain) };
    if !name.is_null() {
        // SAFETY: not null, and NUL-terminated as libvirt promises; it belongs
        // to the domain, and is copied before the call ends.
        let name = unsafe { CStr::from_ptr(name) }
            .to_string_lossy()
            .into_owned();
        // An error means that nobody listens.
        let _ = events.send(Lifecycle {
            domain: name,
            moment: Moment::from_raw(event),
        });
    }
    0
}

unsafe extern "C" fn free_events(opaque: *mut c_void) {
    // SAFETY: called once, with the pointer that came from `Box::into_raw`.
    drop(unsafe { Box::from_raw(opaque.cast::<Events>()) });
}
