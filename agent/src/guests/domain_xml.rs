//! A guest as libvirt's domain XML.
//!
//! What always holds: transient; memory and vCPUs exactly as sold; no graphics,
//! no balloon, no USB; disk formats explicit, never probed; the interface an
//! isolated port of the bridge with a fixed MAC; the ticket in the metadata, so
//! that an agent that lost its own record can adopt the guest.
//!
//! Elements: <https://libvirt.org/formatdomain.html>.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use camino::{Utf8Path, Utf8PathBuf};
use quick_xml::Writer;
use quick_xml::events::{BytesText, Event};
use quick_xml::reader::Reader;
use surplus_protocol::inventory::NumaNode;
use surplus_protocol::lease::{Firmware, GuestSpec, Ticket};
use surplus_seat::Seat;
use surplus_site::DiskRate;

use super::disk_limit::DiskLimit;
use super::overhead::footprint;
use super::placement::Placement;

/// The XML name space of our metadata.
pub const NAMESPACE: &str = "urn:surplus:guest:1";

/// OVMF as Debian ships it.
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// Its empty variable store, copied for each lease.
pub const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Between busy guests each vCPU counts the same.
const CPU_WEIGHT: u64 = 100;
/// A tenth of a second: what a guest may take is counted anew so often.
const CPU_PERIOD_MICROS: u64 = 100_000;

/// Everything that the XML is made from.
#[derive(Clone, Debug)]
pub struct DomainSpec<'a> {
    pub ticket: &'a Ticket,
    pub seat: Seat,
    pub disk: DiskFile,
    /// What each of its vCPUs may do with the host's disks; its files lie in memory
    /// where there is none.
    pub disk_rate: Option<DiskRate>,
    pub seed: Utf8PathBuf,
    pub console: Utf8PathBuf,
    /// The lease's own UEFI variables; used with UEFI only.
    pub variables: Utf8PathBuf,
    pub bridge: &'a str,
    /// Run under QEMU's emulation, not KVM.
    pub emulation: bool,
    /// The group of QEMU, which runs as the seat's user; libvirt's default for
    /// both where `None`.
    pub group: Option<u32>,
    /// Its memory is huge pages of 2 MiB.
    pub huge_pages: bool,
    /// The NUMA node that it lives on, if on one.
    pub node: Option<&'a NumaNode>,
}

/// A disk's file and its format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFile {
    pub path: Utf8PathBuf,
    pub format: DiskFormat,
    /// What lies below it, which stays the host's: it is other guests', too.
    pub backing: Option<(Utf8PathBuf, DiskFormat)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFormat {
    Raw,
    Qcow2,
}

impl DiskFormat {
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

type Xml = Writer<Vec<u8>>;

impl DomainSpec<'_> {
    /// The domain's XML.
    ///
    /// # Errors
    ///
    /// Only when the ticket cannot be written as JSON, which would be a bug.
    pub fn to_xml(&self) -> io::Result<String> {
        let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
        let kind = if self.emulation { "qemu" } else { "kvm" };
        xml.create_element("domain")
            .with_attribute(("type", kind))
            .write_inner_content(|xml| {
                self.identity(xml)?;
                self.limits(xml)?;
                self.machine(xml)?;
                self.devices(xml)?;
                self.confinement(xml)
            })?;
        String::from_utf8(xml.into_inner()).map_err(io::Error::other)
    }

    fn guest(&self) -> &GuestSpec {
        &self.ticket.guest
    }

    fn placement(&self) -> Placement {
        Placement::of(self.ticket)
    }

    fn identity(&self, xml: &mut Xml) -> io::Result<()> {
        text(xml, "name", &self.placement().domain_name())?;
        let resources = self.guest().resources;
        xml.create_element("memory")
            .with_attribute(("unit", "b"))
            .write_text_content(BytesText::new(&resources.memory_bytes.to_string()))?;
        if self.huge_pages {
            huge_pages(xml)?;
        }
        let processors = self.node.map(|node| list(&node.cpus));
        xml.create_element("vcpu")
            .with_attribute(("placement", "static"))
            .with_attributes(processors.as_deref().map(|cpus| ("cpuset", cpus)))
            .write_text_content(BytesText::new(&resources.vcpus.to_string()))?;
        let ticket = encode_ticket(self.ticket)?;
        xml.create_element("metadata").write_inner_content(|xml| {
            xml.create_element("surplus:guest")
                .with_attributes([
                    ("xmlns:surplus", NAMESPACE),
                    ("lease", self.ticket.lease.to_string().as_str()),
                    ("epoch", self.ticket.epoch.to_string().as_str()),
                    ("seat", self.seat.to_string().as_str()),
                    ("ticket", ticket.as_str()),
                ])
                .write_empty()?;
            Ok(())
        })?;
        Ok(())
    }

    /// What its control group may take, QEMU's own work included: of memory what
    /// was sold (huge pages do not count there) and what that costs, and its disk
    /// where that lies in memory; of CPU time one processor beyond those that were
    /// sold, for its disk and network.
    fn limits(&self, xml: &mut Xml) -> io::Result<()> {
        let sold = self.guest().resources;
        let whole = footprint(sold);
        let files = if self.disk_rate.is_none() {
            whole.disk_bytes
        } else {
            0
        };
        let counted = if self.huge_pages {
            whole.memory_bytes.saturating_sub(sold.memory_bytes)
        } else {
            whole.memory_bytes
        };
        let limit = counted.saturating_add(files).to_string();
        xml.create_element("memtune").write_inner_content(|xml| {
            xml.create_element("hard_limit")
                .with_attribute(("unit", "b"))
                .write_text_content(BytesText::new(&limit))?;
            Ok(())
        })?;
        let vcpus = u64::from(sold.vcpus);
        let quota = (vcpus + 1) * CPU_PERIOD_MICROS;
        xml.create_element("cputune").write_inner_content(|xml| {
            text(xml, "shares", &(vcpus * CPU_WEIGHT).min(10_000).to_string())?;
            text(xml, "global_period", &CPU_PERIOD_MICROS.to_string())?;
            text(xml, "global_quota", &quota.to_string())
        })?;
        if let Some(node) = self.node {
            let id = node.id.to_string();
            xml.create_element("numatune").write_inner_content(|xml| {
                // Should the host's own files have filled it: slow is better than dead.
                empty(xml, "memory", &[("mode", "preferred"), ("nodeset", &id)])
            })?;
        }
        Ok(())
    }

    fn machine(&self, xml: &mut Xml) -> io::Result<()> {
        xml.create_element("os").write_inner_content(|xml| {
            xml.create_element("type")
                .with_attributes([("arch", "x86_64"), ("machine", "q35")])
                .write_text_content(BytesText::new("hvm"))?;
            if self.guest().firmware == Firmware::Uefi {
                xml.create_element("loader")
                    .with_attributes([("readonly", "yes"), ("type", "pflash"), ("format", "raw")])
                    .write_text_content(BytesText::new(OVMF_CODE))?;
                xml.create_element("nvram")
                    .with_attribute(("format", "raw"))
                    .write_text_content(BytesText::new(self.variables.as_str()))?;
            }
            empty(xml, "boot", &[("dev", "hd")])
        })?;
        xml.create_element("features").write_inner_content(|xml| {
            empty(xml, "acpi", &[])?;
            empty(xml, "apic", &[])
        })?;
        let cpu = if self.emulation {
            "maximum"
        } else {
            "host-passthrough"
        };
        empty(xml, "cpu", &[("mode", cpu), ("check", "none")])?;
        empty(xml, "clock", &[("offset", "utc")])?;
        text(xml, "on_poweroff", "destroy")?;
        text(xml, "on_reboot", "restart")?;
        text(xml, "on_crash", "destroy")
    }

    fn devices(&self, xml: &mut Xml) -> io::Result<()> {
        xml.create_element("devices").write_inner_content(|xml| {
            empty(xml, "controller", &[("type", "usb"), ("model", "none")])?;
            let limit = self.disk_limit();
            disk(xml, &self.disk, "vda", false, limit)?;
            let seed = DiskFile {
                path: self.seed.clone(),
                format: DiskFormat::Raw,
                backing: None,
            };
            disk(xml, &seed, "vdb", true, limit)?;
            self.interface(xml)?;
            self.console(xml)?;
            xml.create_element("rng")
                .with_attribute(("model", "virtio"))
                .write_inner_content(|xml| {
                    xml.create_element("backend")
                        .with_attribute(("model", "random"))
                        .write_text_content(BytesText::new("/dev/urandom"))?;
                    Ok(())
                })?;
            // What was sold is the guest's for good.
            empty(xml, "memballoon", &[("model", "none")])
        })?;
        Ok(())
    }

    fn disk_limit(&self) -> Option<DiskLimit> {
        let vcpus = self.guest().resources.vcpus;
        self.disk_rate.map(|rate| DiskLimit::new(rate, vcpus))
    }

    fn interface(&self, xml: &mut Xml) -> io::Result<()> {
        xml.create_element("interface")
            .with_attribute(("type", "bridge"))
            .write_inner_content(|xml| {
                empty(xml, "mac", &[("address", &self.seat.mac())])?;
                empty(xml, "source", &[("bridge", self.bridge)])?;
                empty(xml, "target", &[("dev", &self.seat.interface())])?;
                empty(xml, "model", &[("type", "virtio")])?;
                // Guests do not reach each other over the bridge.
                empty(xml, "port", &[("isolated", "yes")])
            })?;
        Ok(())
    }

    /// virtlogd writes and rotates the file, whether the agent lives or not.
    fn console(&self, xml: &mut Xml) -> io::Result<()> {
        for (element, kind) in [("serial", "isa-serial"), ("console", "")] {
            xml.create_element(element)
                .with_attribute(("type", "file"))
                .write_inner_content(|xml| {
                    empty(
                        xml,
                        "source",
                        &[("path", self.console.as_str()), ("append", "on")],
                    )?;
                    if kind.is_empty() {
                        return empty(xml, "target", &[("type", "serial"), ("port", "0")]);
                    }
                    empty(xml, "target", &[("type", kind), ("port", "0")])
                })?;
        }
        Ok(())
    }

    fn confinement(&self, xml: &mut Xml) -> io::Result<()> {
        let (uid, Some(gid)) = (self.seat.uid(), self.group) else {
            return Ok(());
        };
        xml.create_element("seclabel")
            .with_attributes([("type", "static"), ("model", "dac"), ("relabel", "yes")])
            .write_inner_content(|xml| text(xml, "label", &format!("+{uid}:+{gid}")))?;
        Ok(())
    }
}

/// Processors, as libvirt takes them.
fn list(cpus: &[u32]) -> String {
    let cpus: Vec<_> = cpus.iter().map(u32::to_string).collect();
    cpus.join(",")
}

fn huge_pages(xml: &mut Xml) -> io::Result<()> {
    xml.create_element("memoryBacking")
        .write_inner_content(|xml| {
            xml.create_element("hugepages")
                .write_inner_content(|xml| empty(xml, "page", &[("size", "2"), ("unit", "MiB")]))?;
            Ok(())
        })?;
    Ok(())
}

fn disk(
    xml: &mut Xml,
    file: &DiskFile,
    target: &str,
    readonly: bool,
    limit: Option<DiskLimit>,
) -> io::Result<()> {
    xml.create_element("disk")
        .with_attributes([("type", "file"), ("device", "disk")])
        .write_inner_content(|xml| {
            let mut driver = vec![("name", "qemu"), ("type", file.format.name())];
            if !readonly {
                // Space that the guest frees goes back to the host.
                driver.extend([("discard", "unmap"), ("detect_zeroes", "unmap")]);
            }
            empty(xml, "driver", &driver)?;
            empty(xml, "source", &[("file", file.path.as_str())])?;
            if let Some((path, format)) = &file.backing {
                backing(xml, path, *format)?;
            }
            empty(xml, "target", &[("dev", target), ("bus", "virtio")])?;
            if let Some(limit) = limit {
                iotune(xml, limit)?;
            }
            if readonly {
                empty(xml, "readonly", &[])?;
            }
            Ok(())
        })?;
    Ok(())
}

/// Reads and writes count alike, and all of a guest's disks together.
fn iotune(xml: &mut Xml, limit: DiskLimit) -> io::Result<()> {
    let seconds = limit.burst_seconds.to_string();
    xml.create_element("iotune").write_inner_content(|xml| {
        for (what, sustained, burst) in [
            ("bytes", limit.bytes, limit.burst_bytes),
            ("iops", limit.ops, limit.burst_ops),
        ] {
            let name = format!("total_{what}_sec");
            text(xml, &name, &sustained.to_string())?;
            text(xml, &format!("{name}_max"), &burst.to_string())?;
            text(xml, &format!("{name}_max_length"), &seconds)?;
        }
        text(xml, "group_name", "guest")
    })?;
    Ok(())
}

/// The file below, of which libvirt changes neither owner nor label, and the end
/// of the chain, so that it looks for nothing further.
fn backing(xml: &mut Xml, path: &Utf8Path, format: DiskFormat) -> io::Result<()> {
    xml.create_element("backingStore")
        .with_attribute(("type", "file"))
        .write_inner_content(|xml| {
            empty(xml, "format", &[("type", format.name())])?;
            xml.create_element("source")
                .with_attribute(("file", path.as_str()))
                .write_inner_content(|xml| {
                    empty(xml, "seclabel", &[("model", "dac"), ("relabel", "no")])
                })?;
            empty(xml, "backingStore", &[])
        })?;
    Ok(())
}

fn empty(xml: &mut Xml, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
    xml.create_element(name)
        .with_attributes(attributes.iter().copied())
        .write_empty()?;
    Ok(())
}

fn text(xml: &mut Xml, name: &str, content: &str) -> io::Result<()> {
    xml.create_element(name)
        .write_text_content(BytesText::new(content))?;
    Ok(())
}

/// The ticket without the buyer's keys and user data, which a running guest has
/// already read.
fn encode_ticket(ticket: &Ticket) -> io::Result<String> {
    let mut ticket = ticket.clone();
    ticket.guest.user_data = None;
    ticket.guest.ssh_keys.clear();
    // It holds both once more.
    ticket.proof = None;
    Ok(BASE64.encode(serde_json::to_vec(&ticket)?))
}

/// Why a domain's metadata does not hold a ticket.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("the metadata is not XML")]
    Xml(#[from] quick_xml::Error),
    #[error("the metadata holds no ticket")]
    Missing,
    #[error("the ticket in the metadata is not base64")]
    Base64(#[from] base64::DecodeError),
    #[error("the ticket in the metadata is not one of ours")]
    Json(#[from] serde_json::Error),
    #[error("the metadata names no seat of this host")]
    Seat,
}

/// The ticket that a domain was made from.
pub fn ticket_of(metadata: &str) -> Result<Ticket, MetadataError> {
    let ticket = attribute(metadata, "ticket")?.ok_or(MetadataError::Missing)?;
    Ok(serde_json::from_slice(&BASE64.decode(ticket)?)?)
}

/// The seat that its guest has.
pub fn seat_of(metadata: &str) -> Result<Seat, MetadataError> {
    let seat = attribute(metadata, "seat")?.and_then(|seat| seat.parse::<u16>().ok());
    let seat = seat.and_then(|number| Seat::try_from(number).ok());
    seat.ok_or(MetadataError::Seat)
}

/// The first attribute of this name, of whatever element.
fn attribute(metadata: &str, name: &str) -> Result<Option<String>, MetadataError> {
    let mut reader = Reader::from_str(metadata);
    loop {
        match reader.read_event()? {
            Event::Start(element) | Event::Empty(element) => {
                let found = element
                    .attributes()
                    .filter_map(Result::ok)
                    .find(|attribute| attribute.key.as_ref() == name);
                if let Some(found) = found {
                    return Ok(Some(found.value.to_string()));
                }
            }
            Event::Eof => return Ok(None),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_ticket;
    use super::*;

    fn spec(ticket: &Ticket) -> DomainSpec<'_> {
        DomainSpec {
            ticket,
            seat: Seat::try_from(17).unwrap(),
            disk: DiskFile {
                path: "/state/guests/g/disk".into(),
                format: DiskFormat::Qcow2,
                backing: Some(("/state/images/i".into(), DiskFormat::Raw)),
            },
            disk_rate: None,
            seed: "/state/guests/g/seed.img".into(),
            console: "/state/guests/g/console.log".into(),
            variables: "/state/guests/g/vars.fd".into(),
            bridge: "surplus0",
            emulation: false,
            group: None,
            huge_pages: false,
            node: None,
        }
    }

    #[test]
    fn a_guest_on_one_of_several_nodes_in_huge_pages() {
        let ticket = test_ticket(1, 1);
        let node = NumaNode {
            id: 1,
            memory_bytes: 1 << 34,
            cpus: vec![8, 9, 10, 24],
        };
        let spec = DomainSpec {
            huge_pages: true,
            node: Some(&node),
            ..spec(&ticket)
        };
        let xml = spec.to_xml().unwrap();
        let lines: Vec<_> = xml.lines().map(str::trim).collect();
        for line in [
            "<vcpu placement=\"static\" cpuset=\"8,9,10,24\">2</vcpu>",
            "<memory mode=\"preferred\" nodeset=\"1\"/>",
            "<page size=\"2\" unit=\"MiB\"/>",
            // What QEMU costs, and the disk.
            "<hard_limit unit=\"b\">2298478592</hard_limit>",
        ] {
            assert!(lines.contains(&line), "no {line} in {xml}");
        }
    }

    #[test]
    fn a_bios_guest_under_kvm() {
        insta::assert_snapshot!(spec(&test_ticket(1, 1)).to_xml().unwrap());
    }

    #[test]
    fn a_uefi_guest_under_emulation_with_its_own_user() {
        let mut ticket = test_ticket(1, 1);
        ticket.guest.firmware = Firmware::Uefi;
        let spec = DomainSpec {
            emulation: true,
            disk_rate: Some(DiskRate {
                ops: 500,
                mbytes: 20,
            }),
            group: Some(104),
            disk: DiskFile {
                path: "/state/<&\">/disk".into(),
                format: DiskFormat::Raw,
                backing: None,
            },
            ..spec(&ticket)
        };
        insta::assert_snapshot!(spec.to_xml().unwrap());
    }

    #[test]
    fn ticket_and_seat_come_back_from_the_metadata_without_the_buyers_secrets() {
        let mut ticket = test_ticket(1, 1);
        ticket.guest.user_data = Some("secret".into());
        ticket.proof = Some(surplus_protocol::lease::SignedTicket("secret".into()));
        let xml = spec(&ticket).to_xml().unwrap();
        let back = ticket_of(&xml).unwrap();
        assert_eq!(seat_of(&xml).unwrap(), spec(&ticket).seat);
        assert_eq!(back.guest.user_data, None);
        assert_eq!(back.proof, None);
        assert!(back.guest.ssh_keys.is_empty());
        assert_eq!((back.lease, back.ends_at), (ticket.lease, ticket.ends_at));
        assert!(matches!(ticket_of("<guest/>"), Err(MetadataError::Missing)));
        for none in ["<guest/>", "<guest seat='0'/>", "<guest seat='x'/>"] {
            assert!(matches!(seat_of(none), Err(MetadataError::Seat)), "{none}");
        }
    }
}
