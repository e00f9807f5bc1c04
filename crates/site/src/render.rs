//! Writing a site file: with its secrets for the medium, without them for eyes.

use std::fmt::{self, Display, Write as _};

use secrecy::{ExposeSecret as _, SecretString};

use crate::network::{Addressing, Interface, Network, Uplink};
use crate::site::{Guests, Marketplace, Place, Site, Storage, Trust};
use crate::size::format_size;

/// What stands in place of a secret.
const MASK: &str = "(hidden)";

impl Site {
    /// The whole file, the token included: for a medium, never for a log.
    pub fn to_toml(&self) -> String {
        self.render(|token| token.expose_secret().to_owned())
    }

    /// The file for people to look at; secrets are masked.
    pub fn to_masked_toml(&self) -> String {
        self.render(|_| MASK.to_owned())
    }

    fn render(&self, token: impl Fn(&SecretString) -> String) -> String {
        let mut page = Page("version = 1\n".to_owned());
        page.marketplace(&self.marketplace, token);
        page.place(&self.place);
        page.network("network", &self.network);
        page.section("storage", |page| match &self.storage {
            Storage::None => page.string("policy", "none"),
            Storage::Blank => page.string("policy", "blank"),
            Storage::Serials(serials) => {
                page.string("policy", "serials");
                page.list("serials", serials);
            }
        });
        page.section("guests", |page| {
            let (guests, usual) = (&self.guests, Guests::default());
            page.plain_if("share_cores", guests.share_cores.then_some(true));
            for (key, rate, usual) in [
                ("mbits", guests.mbits, usual.mbits),
                ("disk_ops", guests.disk_rate.ops, usual.disk_rate.ops),
                (
                    "disk_mbytes",
                    guests.disk_rate.mbytes,
                    usual.disk_rate.mbytes,
                ),
            ] {
                page.plain_if(key, (rate != usual).then_some(rate));
            }
            let addresses = guests.addresses;
            page.plain_if("addresses", (addresses > 0).then_some(addresses));
        });
        if let Some(network) = &self.guests.network {
            page.network("guests.network", network);
        }
        page.section("reserve", |page| {
            page.string_if("memory", self.reserve.memory.map(format_size));
            page.plain_if("vcpus", self.reserve.vcpus);
        });
        page.section("time", |page| page.list("servers", &self.time.servers));
        page.section("testing", |page| {
            page.plain_if(
                "allow_emulation",
                self.testing.allow_emulation.then_some(true),
            );
        });
        page.0
    }
}

/// Masked: a site may end up in any message.
impl Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_masked_toml())
    }
}

struct Page(String);

impl Page {
    fn marketplace(&mut self, marketplace: &Marketplace, token: impl Fn(&SecretString) -> String) {
        self.section("marketplace", |page| {
            match &marketplace.urls[..] {
                [url] => page.string("url", url),
                urls => page.list("urls", urls),
            }
            match &marketplace.trust {
                // Checked at reading: base64 and its frame, nothing to escape.
                Trust::Ca(pem) => _ = write!(page.0, "ca = \"\"\"\n{pem}\"\"\"\n"),
                Trust::CaSha256(hash) => {
                    page.string("ca_sha256", &format!("sha256:{}", hex::encode(hash)));
                }
            }
            page.string_if("token", marketplace.token.as_ref().map(token));
            page.string_if("proxy", marketplace.proxy.as_ref());
        });
    }

    fn place(&mut self, place: &Place) {
        self.section("site", |page| {
            page.string_if("name", place.name.as_ref());
            page.string_if("rack", place.rack.as_ref());
        });
        self.section("site.labels", |page| {
            for (key, value) in &place.labels {
                page.string(&quoted(key), value);
            }
        });
    }

    fn network(&mut self, name: &str, network: &Network) {
        self.section(name, |page| {
            if let Uplink::One(interface) = &network.uplink {
                page.string("interface", &interface.to_string());
            }
            if let Addressing::Static(fixed) = &network.addressing {
                page.list("address", &fixed.addresses);
                page.list("gateway", &fixed.gateways);
            }
            page.list("dns", &network.dns);
            page.plain_if("vlan", network.vlan);
            page.plain_if("mtu", network.mtu);
        });
        if let Uplink::Bond(bond) = &network.uplink {
            self.section(&format!("{name}.bond"), |page| {
                page.list::<Interface>("interfaces", &bond.interfaces);
                page.string("mode", bond.mode.name());
            });
        }
    }

    /// A section, unless nothing is in it.
    fn section(&mut self, name: &str, write: impl FnOnce(&mut Self)) {
        let before = self.0.len();
        let _ = write!(self.0, "\n[{name}]\n");
        let head = self.0.len();
        write(self);
        if self.0.len() == head {
            self.0.truncate(before);
        }
    }

    fn string(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.0, "{key} = {}", quoted(value));
    }

    fn string_if(&mut self, key: &str, value: Option<impl AsRef<str>>) {
        if let Some(value) = value {
            self.string(key, value.as_ref());
        }
    }

    fn plain_if(&mut self, key: &str, value: Option<impl Display>) {
        if let Some(value) = value {
            let _ = writeln!(self.0, "{key} = {value}");
        }
    }

    fn list<T: Display>(&mut self, key: &str, values: &[T]) {
        if !values.is_empty() {
            let values: Vec<_> = values
                .iter()
                .map(|value| quoted(&value.to_string()))
                .collect();
            let _ = writeln!(self.0, "{key} = [{}]", values.join(", "));
        }
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => _ = write!(out, "\\u{:04X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
