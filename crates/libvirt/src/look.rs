//! Every active domain, with what it does and what it used, in one call.

#![allow(
    unsafe_code,
    reason = "the safe bindings hand these records out as raw pointers, and free none of them"
)]

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::{ptr, slice};

use virt::connect::Connect;
use virt::domain::Domain as Handle;
use virt::error::Error as VirtError;

use crate::domain::{InterfaceBytes, State, Stats};

/// One active domain.
pub(crate) struct Seen {
    pub handle: Handle,
    pub state: State,
    pub stats: Stats,
}

/// Looks at every active domain. None of this asks QEMU itself, which may hang.
pub(crate) fn look(connect: &Connect) -> Result<Vec<Seen>, VirtError> {
    let wanted = virt_sys::VIR_DOMAIN_STATS_STATE
        | virt_sys::VIR_DOMAIN_STATS_CPU_TOTAL
        | virt_sys::VIR_DOMAIN_STATS_INTERFACE;
    let records = Records::ask(connect, wanted)?;
    records.seen()
}

/// What libvirt answered, until it is dropped.
struct Records {
    list: *mut virt_sys::virDomainStatsRecordPtr,
    count: usize,
}

impl Records {
    fn ask(connect: &Connect, wanted: virt_sys::virDomainStatsTypes) -> Result<Self, VirtError> {
        let mut list = ptr::null_mut();
        // SAFETY: the connection is open, and `list` is written only on success.
        let count = unsafe {
            virt_sys::virConnectGetAllDomainStats(
                connect.as_ptr(),
                wanted as c_uint,
                &raw mut list,
                virt_sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE as c_uint,
            )
        };
        match usize::try_from(count) {
            Ok(count) => Ok(Self { list, count }),
            Err(_) => Err(VirtError::last_error()),
        }
    }

    fn seen(&self) -> Result<Vec<Seen>, VirtError> {
        if self.list.is_null() {
            return Ok(Vec::new());
        }
        // SAFETY: libvirt returned so many pointers, which stay valid until the
        // list is freed, when `self` is dropped.
        let records = unsafe { slice::from_raw_parts(self.list, self.count) };
        let seen = records.iter().map(|record| {
            // SAFETY: each points to a record of the list.
            let record = unsafe { &**record };
            let values = Values(record);
            // SAFETY: the domain is valid. The handle gives back one reference
            // when it is dropped, and the list another: so there is one more.
            let handle = unsafe {
                if virt_sys::virDomainRef(record.dom) < 0 {
                    return Err(VirtError::last_error());
                }
                Handle::from_ptr(record.dom)
            };
            Ok(Seen {
                handle,
                state: values.state(),
                stats: values.stats(),
            })
        });
        seen.collect()
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        // SAFETY: the list came from libvirt and is freed once. Null is allowed.
        unsafe { virt_sys::virDomainStatsRecordListFree(self.list) }
    }
}

/// The typed parameters of one record, by name.
struct Values<'a>(&'a virt_sys::virDomainStatsRecord);

/// libvirt's function that reads a parameter of one type.
type Get<T> =
    unsafe extern "C" fn(virt_sys::virTypedParameterPtr, c_int, *const c_char, *mut T) -> c_int;

impl Values<'_> {
    fn state(&self) -> State {
        let raw = self.get(c"state.state", virt_sys::virTypedParamsGetInt);
        let raw = raw.and_then(|raw| u32::try_from(raw).ok());
        raw.map_or(State::Other, State::from_raw)
    }

    fn stats(&self) -> Stats {
        let count = |name| self.get(name, virt_sys::virTypedParamsGetULLong);
        let interface = count(c"net.0.rx.bytes").zip(count(c"net.0.tx.bytes"));
        Stats {
            cpu_nanos: count(c"cpu.time").unwrap_or(0),
            interface: interface.map(|(received, sent)| InterfaceBytes { received, sent }),
        }
    }

    fn get<T: Default>(&self, name: &CStr, get: Get<T>) -> Option<T> {
        let mut value = T::default();
        // SAFETY: the parameters are the record's, the name ends with NUL, and
        // `value` is of the type that `get` writes.
        let found = unsafe { get(self.0.params, self.0.nparams, name.as_ptr(), &raw mut value) };
        (found > 0).then_some(value)
    }
}
