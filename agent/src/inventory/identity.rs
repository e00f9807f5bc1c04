//! What the firmware says of the machine.
//!
//! What always holds: texts that makers leave in by the thousand are left out;
//! what stays is still not unique, and nobody may rely on it being so.

use surplus_protocol::inventory::HardwareIdentity;

use super::nics;
use crate::sysroot::SysRoot;

const DMI: &str = "/sys/class/dmi/id";

/// Texts that stand where the maker never filled in the field.
const FILLERS: [&str; 14] = [
    "to be filled by o.e.m.",
    "default string",
    "none",
    "n/a",
    "not specified",
    "not applicable",
    "not settable",
    "not present",
    "not available",
    "system serial number",
    "base board serial number",
    "0123456789",
    "empty",
    "unknown",
];

/// DMI identity and permanent MAC addresses.
pub fn identity(root: &SysRoot) -> HardwareIdentity {
    let text = |file: &str| {
        root.text(format!("{DMI}/{file}"))
            .filter(|text| !FILLERS.contains(&text.to_ascii_lowercase().as_str()))
            .filter(|text| text.chars().any(|c| !matches!(c, '0' | '-' | '.' | ' ')))
    };
    HardwareIdentity {
        system_uuid: text("product_uuid")
            .map(|uuid| uuid.to_ascii_lowercase())
            .filter(|uuid| uuid.chars().any(|c| !matches!(c, 'f' | '-'))),
        system_serial: text("product_serial"),
        board_serial: text("board_serial"),
        vendor: text("sys_vendor"),
        product: text("product_name"),
        macs: nics::permanent_macs(root),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysroot::fixture::Tree;

    #[test]
    fn makers_fillers_are_no_identity() {
        let tree = Tree::new();
        tree.file(
            "/sys/class/dmi/id/product_uuid",
            "00000000-0000-0000-0000-000000000000\n",
        )
        .file(
            "/sys/class/dmi/id/product_serial",
            "To Be Filled By O.E.M.\n",
        )
        .file("/sys/class/dmi/id/board_serial", "0123456789\n")
        .file("/sys/class/dmi/id/sys_vendor", "QEMU\n");
        let identity = identity(&tree.root());
        assert_eq!(identity.system_uuid, None);
        assert_eq!(identity.system_serial, None);
        assert_eq!(identity.board_serial, None);
        assert_eq!(identity.vendor.as_deref(), Some("QEMU"));
    }

    #[test]
    fn a_uuid_is_compared_in_lower_case() {
        let tree = Tree::new();
        tree.file(
            "/sys/class/dmi/id/product_uuid",
            "4C4C4544-0042-3510-8052-B4C04F4E3132\n",
        );
        let uuid = identity(&tree.root()).system_uuid;
        assert_eq!(
            uuid.as_deref(),
            Some("4c4c4544-0042-3510-8052-b4c04f4e3132")
        );
    }
}
