//! Admission rules.

use surplus_protocol::api::{Admission, AdmissionRule};

use super::{View, short_ids};

impl View {
    pub(crate) fn admission_rules(&self, rules: &[AdmissionRule]) -> String {
        if rules.is_empty() {
            return "no admission rules: hosts join with a token, or by `surplus hosts approve`; \
                    `surplus admit` makes a rule\n"
                .to_owned();
        }
        let ids = short_ids(rules.iter().map(|rule| rule.id));
        self.table(
            &["ID", "ADMITS", "USED", "EXPIRES", "MADE BY", "CREATED"],
            rules.iter().zip(ids).map(|(rule, id)| {
                vec![
                    id,
                    rule.selectors.to_string(),
                    self.used(rule.used, rule.uses),
                    self.expiry(rule.expires_at),
                    rule.created_by.clone(),
                    self.time(rule.created_at),
                ]
            }),
        )
    }
}

/// Who let a host in.
pub(super) fn admission(by: &Admission) -> String {
    match by {
        Admission::Token { name, .. } => format!("token {name}"),
        Admission::Rule { id } => format!("admission rule {id}"),
        Admission::Operator { key } => format!("an operator (API key {key})"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{rule, view};

    #[test]
    fn rules_say_whom_they_admit_and_what_is_left_of_them() {
        let mut list = rule(1);
        list.selectors.networks = vec!["10.0.0.0/24".into(), "fd77::/64".into()];
        list.selectors.serials = (0..40).map(|n| format!("B5RJ{n:02}")).collect();
        list.uses = None;
        list.expires_at = None;
        let mut over = rule(2);
        over.expires_at = Some("2026-05-01T10:00:00Z".parse().unwrap());
        insta::assert_snapshot!(view().admission_rules(&[rule(0), list, over]));
    }
}
