//! Why: a store tells its format, so that an older program refuses what it would misread. Never changes a row, and does no I/O.

use super::{FACTS, StoreError, Table, Transaction};

/// The format that this program writes.
pub const FORMAT: u32 = 1;

/// Where the format is noted.
pub(super) const PLACE: (Table, &[u8]) = (FACTS, b"format");

/// Judges what was found at [`PLACE`]: nothing to do, a note to write (new store), or a refusal.
pub(super) fn check(found: Option<&[u8]>, new: bool) -> Result<Option<Transaction>, StoreError> {
    match found.map(|text| std::str::from_utf8(text).ok().and_then(|text| text.parse::<u32>().ok())) {
        Some(Some(format)) if format <= FORMAT => Ok(None),
        Some(Some(format)) => Err(StoreError::Unavailable(format!("its format is {format} and this program knows up to {FORMAT}; start the newer program"))),
        Some(None) => Err(StoreError::Corrupt("its format is not a number".to_owned())),
        None if new => Ok(Some(Transaction::new().put(PLACE.0, PLACE.1, FORMAT.to_string().into_bytes()))),
        None => Err(StoreError::Corrupt("it has no format; its directory is not a store of this program, or it was damaged".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_and_a_missing_one_are_refused() {
        assert!(check(None, true).unwrap().is_some());
        assert!(check(Some(b"1"), false).unwrap().is_none());
        assert!(matches!(check(Some(b"2"), false), Err(StoreError::Unavailable(text)) if text.contains("newer program")));
        assert!(matches!(check(Some(b"x"), false), Err(StoreError::Corrupt(_))));
        assert!(matches!(check(None, false), Err(StoreError::Corrupt(_))));
    }
}
