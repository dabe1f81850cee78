//! The one number that all random choices come from.

/// The seed of this run. Keep it until the test ends: it is printed if the test fails.
pub(crate) struct Seed(u64);

impl Seed {
    /// `WARBLER_SEED`, or 1.
    pub(crate) fn of_this_run() -> Self {
        let given = std::env::var("WARBLER_SEED").ok();
        Self(given.map_or(1, |text| text.parse().expect("WARBLER_SEED is a whole number")))
    }

    pub(crate) fn get(&self) -> u64 {
        self.0
    }
}

impl Drop for Seed {
    #[expect(clippy::print_stderr, reason = "a test tells whoever runs it how to repeat its failure")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat this with WARBLER_SEED={}", self.0);
        }
    }
}
