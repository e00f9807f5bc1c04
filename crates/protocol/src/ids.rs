//! Typed ids: one kind cannot be passed where another is meant.

use newtype_uuid::{TypedUuid, TypedUuidKind, TypedUuidTag};

macro_rules! id_kinds {
    ($($(#[$doc:meta])* $alias:ident = $kind:ident($tag:literal);)*) => {$(
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[doc = concat!("The kind of a ", $tag, " id.")]
        pub enum $kind {}

        impl TypedUuidKind for $kind {
            fn tag() -> TypedUuidTag {
                const TAG: TypedUuidTag = TypedUuidTag::new($tag);
                TAG
            }
        }

        $(#[$doc])*
        pub type $alias = TypedUuid<$kind>;
    )*};
}

id_kinds! {
    /// A host, named by the marketplace at its first enrolment.
    HostId = HostKind("host");
    /// A lease, from reservation to settlement.
    LeaseId = LeaseKind("lease");
    /// A firm price that holds its reservation for a short time.
    QuoteId = QuoteKind("quote");
    /// A join token.
    TokenId = TokenKind("token");
    /// A rule that admits hosts without a token.
    AdmissionRuleId = AdmissionRuleKind("admission-rule");
    /// An API key of an operator or buyer.
    KeyId = KeyKind("key");
    /// One boot of a host: `/proc/sys/kernel/random/boot_id`.
    BootId = BootKind("boot");
}

/// A lease's placement counter; a host refuses an older one.
pub type Epoch = u64;

/// A host's desired-state counter on the marketplace; grows with each change.
pub type Generation = u64;
