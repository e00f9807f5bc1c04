//! How much one buyer may take of what all share.

/// Limits on buyers. An operator's key has none but the free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of images that a buyer's key may have stored.
    pub image_bytes: u64,
    /// Quotes that a buyer's key may hold open at once.
    pub open_quotes: usize,
    /// Bytes that uploads leave free on the data directory's file system.
    pub free_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            image_bytes: 100 << 30,
            open_quotes: 32,
            free_bytes: 1 << 30,
        }
    }
}
