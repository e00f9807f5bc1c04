//! What libvirt knows of a domain, as plain values.

use std::sync::Arc;

/// One active domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    pub name: String,
    /// UUID in its hyphenated form.
    pub uuid: String,
    pub state: State,
    /// The metadata element of the namespace that was asked for, as XML.
    pub metadata: Option<Arc<str>>,
    pub stats: Stats,
}

/// What a domain does (`virDomainState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Running,
    /// Stopped by the hypervisor or an operator; its memory is kept.
    Paused,
    /// On its way down.
    ShuttingDown,
    Off,
    Crashed,
    Other,
}

impl State {
    pub(crate) fn from_raw(raw: virt_sys::virDomainState) -> Self {
        match raw {
            virt_sys::VIR_DOMAIN_RUNNING | virt_sys::VIR_DOMAIN_BLOCKED => Self::Running,
            virt_sys::VIR_DOMAIN_PAUSED | virt_sys::VIR_DOMAIN_PMSUSPENDED => Self::Paused,
            virt_sys::VIR_DOMAIN_SHUTDOWN => Self::ShuttingDown,
            virt_sys::VIR_DOMAIN_SHUTOFF => Self::Off,
            virt_sys::VIR_DOMAIN_CRASHED => Self::Crashed,
            _ => Self::Other,
        }
    }
}

/// What a domain has used since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU time, in nanoseconds.
    pub cpu_nanos: u64,
    /// `None` where the interface could not be read.
    pub interface: Option<InterfaceBytes>,
}

/// Bytes through an interface, as the guest sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceBytes {
    pub received: u64,
    pub sent: u64,
}
