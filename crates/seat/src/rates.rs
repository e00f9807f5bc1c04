//! How much each guest may send and receive, for nft(8).
//!
//! A table of its own, written as a whole: it stands beside the filter and outlives
//! whoever wrote it. What is over the rate is dropped, as on a thinner cable.

/// The table, in place of what was there: `mbits` million bits a second each way,
/// and what a quiet second leaves over at once (nft's bucket for bytes).
pub fn limit(mbits: u32) -> String {
    let bytes = u64::from(mbits) * 125_000;
    let over = format!("limit rate over {bytes} bytes/second");
    let set = |name: &str| {
        format!("\tset {name} {{\n\t\ttype ifname\n\t\tsize 512\n\t\tflags dynamic\n\t}}\n")
    };
    // Before any other rule, so that what is dropped costs nothing more.
    let chain = |name: &str, hook: &str, key: &str, set: &str| {
        format!(
            "\tchain {name} {{\n\t\ttype filter hook {hook} priority -350; policy accept;\n\
             \t\t{key} \"sg*\" update @{set} {{ {key} {over} }} drop\n\t}}\n"
        )
    };
    let table = "table bridge surplus_rates";
    [
        format!("{table}\ndelete {table}\n{table} {{\n"),
        set("sending"),
        set("receiving"),
        chain("from_guests", "prerouting", "iifname", "sending"),
        chain("to_guests", "postrouting", "oifname", "receiving"),
        "}\n".to_owned(),
    ]
    .concat()
}
