//! Where everything is, as hosts are told: URLs, kernel arguments, scripts.

use std::net::Ipv4Addr;

/// This server's addresses, and other servers'.
#[derive(Clone, Debug)]
pub struct Places {
    pub address: Ipv4Addr,
    pub http_port: u16,
    pub https_port: u16,
    /// SHA-256 of the CA certificate that the site file's server shows.
    pub pin: [u8; 32],
    pub also: Vec<Base>,
}

/// Where a boot server's artefacts lie: an `http://` URL with a slash at its
/// end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    url: String,
    host: String,
}

/// A text that is no such URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not where a boot server is: write http://ADDRESS:8080/")]
pub struct NotBase(String);

impl std::str::FromStr for Base {
    type Err = NotBase;

    fn from_str(text: &str) -> Result<Self, NotBase> {
        let no = || NotBase(text.to_owned());
        let url: http::Uri = text.parse().map_err(|_| no())?;
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic())
            && !text.contains(['?', '#', ',', '$', '"', '\'']);
        let host = url.host().filter(|host| !host.is_empty());
        let (Some("http"), Some(host), true) = (url.scheme_str(), host, plain) else {
            return Err(no());
        };
        let slash = if text.ends_with('/') { "" } else { "/" };
        Ok(Self {
            url: format!("{text}{slash}"),
            host: host.to_owned(),
        })
    }
}

impl Base {
    fn url(&self, name: &str) -> String {
        format!("{}{name}", self.url)
    }
}

impl Places {
    pub fn base(&self) -> Base {
        Base {
            url: format!("http://{}:{}/", self.address, self.http_port),
            host: self.address.to_string(),
        }
    }

    /// This server, then the others.
    fn bases(&self) -> impl Iterator<Item = Base> {
        std::iter::once(self.base()).chain(self.also.iter().cloned())
    }

    pub fn url(&self, name: &str) -> String {
        self.base().url(name)
    }

    pub fn site(&self) -> String {
        self.site_at(&self.base())
    }

    /// Another boot server gives the site file at the same port as this one.
    fn site_at(&self, base: &Base) -> String {
        format!("https://{}:{}/site.toml", base.host, self.https_port)
    }

    /// Where the root can be had, this server first.
    pub fn roots(&self) -> Vec<String> {
        self.bases().map(|base| base.url("root.img")).collect()
    }

    /// The kernel arguments about the site: where any of the servers has it, and
    /// the pin of the CA that they share.
    fn site_arguments(&self) -> String {
        let mut words = String::new();
        for base in self.bases() {
            words += &format!("surplus.site={} ", self.site_at(&base));
        }
        words + "surplus.ca=sha256:" + &hex::encode(self.pin)
    }

    /// The kernel arguments for a host that gets no script.
    pub fn arguments(&self) -> String {
        format!(
            "{} surplus.root={}",
            self.site_arguments(),
            self.roots().join(",")
        )
    }

    /// `start.ipxe`, and `autoexec.ipxe`: what iPXE does first. It asks each
    /// server in turn, for ever. Under UEFI iPXE may have the firmware's
    /// address and no open interface: hence `ifopen`.
    pub fn script(&self) -> String {
        let mut extra = self.site_arguments();
        let mut tries = String::new();
        let mut others = String::new();
        for base in &self.also {
            extra += &format!(" surplus.root={}", base.url("root.img"));
            others = "set others yes\n".to_owned();
        }
        for base in self.bases() {
            tries += &format!(
                "set base {}\n\
                 chain --autofree --timeout 10000 ${{base}}boot.ipxe ||\n",
                base.url
            );
        }
        let own = self.base().url;
        format!(
            "#!ipxe\n\
             # Made by surplus-netboot: where everything is. No secret is in it.\n\
             set extra {extra}\n\
             {others}\
             :again\n\
             ifopen ||\n\
             isset ${{ip}} || ifconf --configurator dhcp || goto wait\n\
             {tries}\
             :wait\n\
             echo surplus: stage=medium error=\"no boot server answers\" \
             next=\"check surplus-netboot at {own}; trying again in 4 s: the host goes on\"\n\
             sleep 4\n\
             goto again\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(also: &[&str]) -> Places {
        Places {
            address: Ipv4Addr::new(10, 77, 0, 2),
            http_port: 8080,
            https_port: 8444,
            pin: [0xab; 32],
            also: also.iter().map(|url| url.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn the_script_names_the_site_the_pin_and_each_server() {
        let script = places(&["http://10.77.0.3:8080"]).script();
        let pin = "ab".repeat(32);
        let extra = format!(
            "set extra surplus.site=https://10.77.0.2:8444/site.toml \
             surplus.site=https://10.77.0.3:8444/site.toml surplus.ca=sha256:{pin} \
             surplus.root=http://10.77.0.3:8080/root.img\n"
        );
        assert!(script.starts_with("#!ipxe\n"));
        assert!(script.contains(&extra), "{script}");
        let own = script.find("set base http://10.77.0.2:8080/\n").unwrap();
        let other = script.find("set base http://10.77.0.3:8080/\n").unwrap();
        assert!(own < other && script.contains("set others yes"));
        assert!(!places(&[]).script().contains("others"));
    }

    #[test]
    fn a_host_without_a_script_gets_every_root_this_server_first() {
        let arguments = places(&["http://other/x/"]).arguments();
        let root = "surplus.root=http://10.77.0.2:8080/root.img,http://other/x/root.img";
        assert!(arguments.ends_with(root), "{arguments}");
    }

    #[test]
    fn the_site_file_can_be_had_from_each_server_with_one_pin() {
        let arguments = places(&["http://other/x/", "http://[fd77::3]:80/"]).arguments();
        let (pointer, errors) = surplus_site::Pointer::read(&arguments);
        assert!(errors.is_empty(), "{errors:?}");
        let pointer = pointer.unwrap();
        let urls: Vec<_> = pointer.urls.iter().map(ToString::to_string).collect();
        let expected = [
            "https://10.77.0.2:8444/site.toml",
            "https://other:8444/site.toml",
            "https://[fd77::3]:8444/site.toml",
        ];
        assert_eq!(urls, expected);
        assert_eq!(pointer.ca, [0xab; 32]);
    }

    #[test]
    fn what_would_break_a_script_or_a_command_line_is_no_base() {
        for bad in [
            "https://a/",
            "10.0.0.1",
            "http://",
            "http://a/ b",
            "http://a/,b",
            "http://a/?x",
            "http://a/${x}",
            "http://a/\"",
        ] {
            assert!(bad.parse::<Base>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_template_uses_what_the_script_sets() {
        let template = include_str!("../boot.ipxe");
        let kernel = template
            .lines()
            .find(|line| line.starts_with("kernel "))
            .unwrap();
        for word in [
            "${base}vmlinuz",
            "@COMMAND_LINE@",
            "surplus.root=${base}root.img",
            "${extra}",
        ] {
            assert!(kernel.contains(word), "{word}");
        }
        assert!(template.contains("isset ${others} && exit 1 ||"));
        assert!(template.contains("isset ${base} || set base ${cwduri}"));
    }

    #[test]
    fn under_secure_boot_the_template_boots_the_signed_image_and_says_a_refusal() {
        let template = include_str!("../boot.ipxe");
        let lines: Vec<_> = template.lines().collect();
        let at = |wanted: &str| {
            let found = lines.iter().position(|line| line.starts_with(wanted));
            found.unwrap_or_else(|| panic!("no {wanted:?} in boot.ipxe"))
        };
        let question = at("iseq ${efi/SecureBoot:int8} 1 && goto signed ||");
        assert!(at(":again") < question && question < at("kernel "));
        // Only there: without Secure Boot its own arguments would be lost.
        let named = |line: &&&str| !line.starts_with('#') && line.contains("surplus.efi");
        let from_signed = lines[at(":signed")..].iter().filter(named).count();
        assert_eq!(lines.iter().filter(named).count(), from_signed);
        let signed = &lines[at(":signed")..at(":refused")];
        assert!(signed[2].ends_with("--name surplus.efi ${base}surplus.efi || goto wait"));
        assert_eq!(signed[3], "imgexec --autofree surplus.efi || goto refused");
        let refused = lines[at(":refused")..].join("\n");
        let (refused, _) = refused.split_once("\n:wait").unwrap();
        assert!(refused.contains("error=\"Secure Boot is on and the firmware refused"));
        assert!(refused.ends_with("sleep 4\ngoto again\n"), "{refused}");
    }
}
