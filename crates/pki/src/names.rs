//! Subject and subject alternative names, parsed so that they can be compared
//! whatever string type or order a tool encoded them with.

use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::x509::X509Name;

/// Who a certificate or a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Attribute type (dotted OID) and value, in the order of the subject.
    subject: Vec<(String, Vec<u8>)>,
    /// Sorted, each once.
    alternative: Vec<Alternative>,
}

/// One subject alternative name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alternative {
    Dns(String),
    Ip(Vec<u8>),
    /// Kinds that Surplus never issues, kept so that they count as different.
    Other(String),
}

const COMMON_NAME: &str = "2.5.4.3";

impl Names {
    pub(crate) fn parse<'a>(
        subject: &X509Name<'_>,
        extensions: impl Iterator<Item = &'a ParsedExtension<'a>>,
    ) -> Self {
        let subject = subject
            .iter_attributes()
            .map(|attribute| {
                (
                    attribute.attr_type().to_id_string(),
                    attribute.as_slice().to_vec(),
                )
            })
            .collect();
        let mut alternative: Vec<_> = extensions
            .filter_map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            })
            .flatten()
            .map(Alternative::parse)
            .collect();
        alternative.sort();
        alternative.dedup();
        Self {
            subject,
            alternative,
        }
    }

    /// The first common name of the subject.
    pub fn common_name(&self) -> Option<&str> {
        let (_, value) = self.subject.iter().find(|(kind, _)| kind == COMMON_NAME)?;
        std::str::from_utf8(value).ok()
    }

    /// The DNS names among the alternative names, in lower case.
    pub fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.alternative.iter().filter_map(|name| match name {
            Alternative::Dns(name) => Some(name.as_str()),
            Alternative::Ip(_) | Alternative::Other(_) => None,
        })
    }
}

impl Alternative {
    fn parse(name: &GeneralName<'_>) -> Self {
        match name {
            GeneralName::DNSName(name) => Self::Dns(name.to_ascii_lowercase()),
            GeneralName::IPAddress(bytes) => Self::Ip(bytes.to_vec()),
            other => Self::Other(other.to_string()),
        }
    }
}
