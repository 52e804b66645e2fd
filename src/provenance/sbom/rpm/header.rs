//! What rpm knows of one package: a header, as its databases keep it (rpm's manual, "Package headers"; without the magic number
//! that is before a header in a package's file).

/// The length of an entry of the index: tag, type, where its value starts, how many values there are.
const ENTRY: usize = 16;

/// Tags, by rpm's names for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Tag {
    Name = 1000,
    Version = 1001,
    Release = 1002,
    Epoch = 1003,
    Vendor = 1011,
    License = 1014,
    Arch = 1022,
    SourceRpm = 1044,
}

/// The type of a value that is a number of 32 bits.
const INT32: u32 = 4;
/// The type of a value that is a text, with a zero at its end.
const STRING: u32 = 6;

/// A header, which may be anything: what is not as it should be is not there.
pub struct Header<'h> {
    index: &'h [u8],
    values: &'h [u8],
}

impl<'h> Header<'h> {
    /// `None` if these bytes cannot be one.
    pub fn new(bytes: &'h [u8]) -> Option<Self> {
        let (entries, size) = (number(bytes, 0)? as usize, number(bytes, 4)? as usize);
        let rest = bytes.get(8..)?;
        let (index, values) = rest.split_at_checked(entries.checked_mul(ENTRY)?)?;
        (values.len() == size).then_some(Header { index, values })
    }

    /// The value of a tag from its beginning to the end of all values.
    fn value(&self, tag: Tag, kind: u32) -> Option<&'h [u8]> {
        let mut entries = self.index.chunks_exact(ENTRY);
        let entry = entries.find(|entry| number(entry, 0) == Some(tag as u32))?;
        let at = number(entry, 8)? as usize;
        match number(entry, 4)? == kind {
            true => self.values.get(at..),
            false => None,
        }
    }

    pub fn text(&self, tag: Tag) -> Option<String> {
        let value = self.value(tag, STRING)?;
        let end = value.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }

    pub fn number(&self, tag: Tag) -> Option<u32> {
        number(self.value(tag, INT32)?, 0)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_be_bytes(*number))
}
