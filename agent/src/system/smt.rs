//! A core's threads (SMT). Two tenants on one core can learn from each other's
//! timing, so that each core runs one thread, unless the owner lets them share.
//!
//! <https://docs.kernel.org/admin-guide/hw-vuln/l1tf.html#smt-control>

use std::fs;
use std::io;

use crate::sysroot::SysRoot;

const CONTROL: &str = "/sys/devices/system/cpu/smt/control";
const ACTIVE: &str = "/sys/devices/system/cpu/smt/active";

/// Whether more than one thread of a core runs.
pub fn is_active(root: &SysRoot) -> bool {
    root.text(ACTIVE).is_some_and(|text| text == "1")
}

/// Lets the threads of a core run, or one alone. What the firmware, the kernel's
/// command line or the processor has settled stays as it is.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn set(root: &SysRoot, share_cores: bool) -> io::Result<()> {
    let wanted = if share_cores { "on" } else { "off" };
    let changes = matches!(
        (root.text(CONTROL).as_deref(), share_cores),
        (Some("on"), false) | (Some("off"), true)
    );
    if changes {
        fs::write(root.path(CONTROL), wanted)?;
        tracing::info!(share_cores, "threads of one core");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sysroot::fixture::Tree;

    #[test]
    fn threads_are_switched_as_the_owner_wants_where_they_can_be() {
        for (found, share_cores, left) in [
            ("on", false, "off"),
            ("on", true, "on"),
            ("off", true, "on"),
            ("off", false, "off"),
            ("forceoff", true, "forceoff"),
            ("notsupported", false, "notsupported"),
            ("notimplemented", false, "notimplemented"),
        ] {
            let tree = Tree::new();
            tree.file(CONTROL, found);
            set(&tree.root(), share_cores).unwrap();
            assert_eq!(tree.root().text(CONTROL).as_deref(), Some(left), "{found}");
        }
        let nothing = Tree::new();
        set(&nothing.root(), false).unwrap();
        assert!(!is_active(&nothing.root()));
    }
}
