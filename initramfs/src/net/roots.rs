//! The root's addresses that DHCP named, as a value.
//!
//! What always holds: none is forgotten while there is room, and those that
//! served nobody so far do not keep a new one out.

use crate::net::url::{MOST, RootUrl};

#[derive(Debug, Default)]
pub(crate) struct Roots {
    urls: Vec<RootUrl>,
    /// So many at the front were tried without success.
    failed: usize,
}

impl Roots {
    pub(crate) fn new(urls: Vec<RootUrl>) -> Self {
        Self { urls, failed: 0 }
    }

    pub(crate) fn urls(&self) -> &[RootUrl] {
        &self.urls
    }

    /// Whether this is a new one, and there was room for it.
    pub(crate) fn learn(&mut self, url: &RootUrl) -> bool {
        if self.urls.contains(url) {
            return false;
        }
        if self.urls.len() >= MOST {
            if self.failed == 0 {
                return false;
            }
            self.urls.remove(0);
            self.failed -= 1;
        }
        self.urls.push(url.clone());
        true
    }

    /// All that there are were tried without success.
    pub(crate) fn failed(&mut self) {
        self.failed = self.urls.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(number: usize) -> RootUrl {
        RootUrl::parse(&format!("http://192.0.2.{number}/root.img")).unwrap()
    }

    #[test]
    fn addresses_that_failed_do_not_lock_the_right_one_out() {
        let mut roots = Roots::default();
        for number in 0..MOST {
            assert!(roots.learn(&url(number)));
        }
        assert!(!roots.learn(&url(100)));
        roots.failed();
        assert!(roots.learn(&url(100)));
        assert_eq!(roots.urls().len(), MOST);
        // Named again by the first server: the new one stays.
        for number in 0..MOST {
            roots.learn(&url(number));
        }
        assert!(roots.urls().contains(&url(100)));
    }

    #[test]
    fn an_address_is_kept_once() {
        let mut roots = Roots::new(vec![url(1)]);
        assert!(!roots.learn(&url(1)));
        assert_eq!(roots.urls(), [url(1)]);
    }
}
