//! Where the signatures are in a component.

/// How every component begins. Whoever changes it has no component any more, so it needs no signature.
const HEADER: &[u8; 8] = b"\0asm\x0d\0\x01\0";
/// How modules begin.
const MODULE: &[u8; 8] = b"\0asm\x01\0\0\0";
/// The custom section that holds signatures.
const NAME: &[u8] = b"signature";
/// As many bytes of signatures as anybody needs. Each costs time to check before anything is known of who wrote it.
const MOST_SIGNATURES: usize = 64 << 10;

/// Why nobody has signed what is in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSigned {
    /// It is a component without any signature.
    #[error("it has no signature")]
    Component,
    /// It is no component, but a module.
    #[error("it is a core module and no component")]
    Module,
    /// It is something else.
    #[error("it is not a WebAssembly component")]
    Other,
    /// Its signatures are not what they should be.
    #[error("its signatures are not what they should be: {0}")]
    Unreadable(&'static str),
}

/// A component in two parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts<'a> {
    /// What its signature section holds, if it has one.
    pub(super) signatures: Option<&'a [u8]>,
    /// All that follows: what is signed.
    pub(super) content: &'a [u8],
}

/// Reads from the front of bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

// === impl Parts ===

impl<'a> Parts<'a> {
    /// Finds the signatures of a component, which are in its first section or not there.
    pub(super) fn of(wasm: &'a [u8]) -> Result<Self, NotSigned> {
        let Some(sections) = wasm.strip_prefix(HEADER) else {
            return Err(if wasm.starts_with(MODULE) { NotSigned::Module } else { NotSigned::Other });
        };
        let unsigned = Self { signatures: None, content: sections };
        let mut rest = Reader(sections);
        if rest.byte() != Some(0) {
            return Ok(unsigned);
        }
        // One that is broken is for the compiler to refuse, unless it should be trusted.
        let Some(mut section) = rest.slice().map(Reader) else { return Ok(unsigned) };
        if section.slice() != Some(NAME) {
            return Ok(unsigned);
        }
        if section.0.len() > MOST_SIGNATURES {
            return Err(NotSigned::Unreadable("there are more of them than anybody needs"));
        }
        Ok(Self { signatures: Some(section.0), content: rest.0 })
    }

    /// The component with these signatures.
    pub(super) fn with(&self, signatures: &[u8]) -> Vec<u8> {
        let mut section = Vec::with_capacity(signatures.len() + 16);
        put_slice(&mut section, NAME);
        section.extend_from_slice(signatures);
        let mut wasm = Vec::with_capacity(self.content.len() + section.len() + 16);
        wasm.extend_from_slice(HEADER);
        wasm.push(0);
        put_slice(&mut wasm, &section);
        wasm.extend_from_slice(self.content);
        wasm
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number in LEB128, in as few bytes as it takes: written longer, two files would be one to whoever checks them.
    pub(super) fn number(&mut self) -> Option<usize> {
        let mut number = 0_u32;
        for shift in (0..32).step_by(7) {
            let byte = self.byte()?;
            let bits = u32::from(byte & 0x7f);
            if bits.checked_shl(shift)? >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return if shortest { usize::try_from(number).ok() } else { None };
            }
        }
        None
    }

    /// Bytes with their number before them.
    pub(super) fn slice(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length)
    }
}

pub(super) fn put_number(into: &mut Vec<u8>, mut number: usize) {
    while number > 0x7f {
        into.push(0x80 | (number & 0x7f) as u8);
        number >>= 7;
    }
    into.push(number as u8);
}

pub(super) fn put_slice(into: &mut Vec<u8>, bytes: &[u8]) {
    put_number(into, bytes.len());
    into.extend_from_slice(bytes);
}
