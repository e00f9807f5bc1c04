//! Hosts that wait to join, with what they say of themselves.

use surplus_protocol::api::{Host, HostState};

use super::hosts::machine;
use super::{View, short_ids};
use crate::units::show_size;

impl View {
    pub(crate) fn pending_hosts(&self, hosts: &[Host]) -> String {
        if hosts.is_empty() {
            return "no host waits\n".to_owned();
        }
        let ids = short_ids(hosts.iter().map(|host| host.id));
        let headings = [
            "ID", "SITE", "RACK", "MACHINE", "SERIAL", "MAC", "CPU", ">MEMORY", "FROM", "SINCE",
            "DETAIL",
        ];
        self.table(
            &headings,
            hosts
                .iter()
                .zip(ids)
                .map(|(host, id)| self.pending_row(host, id)),
        )
    }

    fn pending_row(&self, host: &Host, id: String) -> Vec<String> {
        let identity = &host.identity;
        let serial = identity.system_serial.as_ref();
        let serial = serial.or(identity.board_serial.as_ref());
        let macs = match identity.macs.as_slice() {
            [] => "?".to_owned(),
            [only] => only.clone(),
            [first, others @ ..] => format!("{first} +{}", others.len()),
        };
        let memory = match host.memory_bytes {
            0 => "?".to_owned(),
            bytes => show_size(bytes),
        };
        vec![
            id,
            host.site.clone(),
            host.rack.clone(),
            machine(identity),
            serial.cloned().unwrap_or_else(|| "?".to_owned()),
            macs,
            known(&host.cpu_model),
            memory,
            host.address
                .map_or_else(|| "?".to_owned(), |address| address.to_string()),
            self.ago(host.enrolled_at),
            host.detail.clone(),
        ]
    }

    /// What an operator can do about hosts that may do nothing.
    pub(super) fn decisions(&self, hosts: &[Host], ids: &[String]) -> String {
        let mut text = String::new();
        for (host, id) in hosts.iter().zip(ids) {
            if host.state == HostState::Quarantined {
                text.push_str(&format!(
                    "\n{id} is quarantined: stop the machine that should not be there, then \
                     `surplus hosts approve {id}`; or `surplus hosts reject {id}` keeps both out\n"
                ));
            }
        }
        let waiting = hosts
            .iter()
            .filter(|host| host.state == HostState::Pending)
            .count();
        if waiting > 0 {
            text.push_str(&format!(
                "\nwaiting to join: {waiting}; `surplus hosts --pending` shows what they are, \
                 `surplus hosts approve` and `surplus admit` let them in\n"
            ));
        }
        text
    }
}

fn known(text: &str) -> String {
    match text {
        "" => "?".to_owned(),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{host, pending, view};
    use super::*;

    #[test]
    fn waiting_hosts_are_shown_with_what_they_say_of_themselves() {
        let mut bare = pending(2);
        bare.identity = Default::default();
        (bare.cpu_model, bare.memory_bytes) = (String::new(), 0);
        bare.rack = String::new();
        let mut several = pending(3);
        several.identity.macs.push("e4:43:4b:00:11:23".into());
        insta::assert_snapshot!(view().pending_hosts(&[pending(1), bare, several]));
    }

    #[test]
    fn a_quarantined_host_is_shown_with_the_way_out() {
        let mut double = host(1);
        double.state = HostState::Quarantined;
        let text = view().hosts(&[host(0), double, pending(2)]);
        assert!(text.contains("`surplus hosts approve 1193a2b4`"), "{text}");
        assert!(text.contains("waiting to join: 1"), "{text}");
    }
}
