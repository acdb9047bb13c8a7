//! Recording: values that somebody wrote.

use super::{NotCarried, Recorder, Tape};
use crate::{manifest::did_you_mean, policy::WaveText, service::shape::wit};
use wasm_wave::{ast::Node, untyped::UntypedValue};
use wasmtime::component::Type;

/// Why a text is no value of a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongValue {
    /// Something else stands there than has to.
    #[error("expected {expected}, found {found}")]
    Other {
        /// What has to, in WIT's words.
        expected: String,
        /// What does, and where.
        found: String,
    },
    /// It is too much.
    #[error(transparent)]
    NotCarried(#[from] NotCarried),
}

struct Reader<'a> {
    text: &'a WaveText,
    tape: Recorder,
}

/// The tape with one value of this type: the one that the text says.
///
/// What the text leaves open is as WAVE has it: a field that may be `none` may be left out, and `some` and `ok` too where
/// it is clear that they are meant. A field that the type does not have is an error.
pub fn written(text: &WaveText, ty: &Type) -> Result<Tape, WrongValue> {
    let mut reader = Reader { text, tape: Recorder::default() };
    // It was one when it was made.
    let value = UntypedValue::parse(text.as_str())
        .map_err(|error| WrongValue::Other { expected: wit(ty), found: error.to_string() })?;
    reader.value(ty, value.node())?;
    Ok(reader.tape.finish())
}

/// Reads a number, and records it.
macro_rules! number {
    ($reader:expr, $ty:expr, $node:expr, $number:ty) => {{
        let number: $number = $reader.or_wrong($ty, $node, $node.as_number($reader.text.as_str()))?;
        $reader.tape.data(&number.to_le_bytes())?
    }};
}

// === impl Reader ===

impl Reader<'_> {
    fn value(&mut self, ty: &Type, node: &Node) -> Result<(), WrongValue> {
        let text = self.text.as_str();
        self.tape.value()?;
        match ty {
            Type::Bool => {
                let value = self.or_wrong(ty, node, node.as_bool())?;
                self.tape.data(&[value.into()])?;
            }
            Type::S8 => number!(self, ty, node, i8),
            Type::U8 => number!(self, ty, node, u8),
            Type::S16 => number!(self, ty, node, i16),
            Type::U16 => number!(self, ty, node, u16),
            Type::S32 => number!(self, ty, node, i32),
            Type::U32 => number!(self, ty, node, u32),
            Type::S64 => number!(self, ty, node, i64),
            Type::U64 => number!(self, ty, node, u64),
            Type::Float32 => number!(self, ty, node, f32),
            Type::Float64 => number!(self, ty, node, f64),
            Type::Char => {
                let value = self.or_wrong(ty, node, node.as_char(text))?;
                self.tape.data(&u32::from(value).to_le_bytes())?;
            }
            Type::String => {
                let value = self.or_wrong(ty, node, node.as_str(text))?;
                self.tape.string(&value)?;
            }
            Type::List(list) => {
                let (element, nodes) = (list.ty(), self.or_wrong(ty, node, node.as_list())?);
                self.mark(nodes.len())?;
                for node in nodes {
                    self.value(&element, node)?;
                }
            }
            Type::Record(record) => {
                let fields: Vec<_> = self.or_wrong(ty, node, node.as_record(text))?.collect();
                if let Some((name, _)) = fields.iter().find(|(name, _)| record.fields().all(|it| it.name != *name)) {
                    let meant = did_you_mean(name, record.fields().map(|field| field.name));
                    let found = format!("the field `{name}`{meant} in {}", self.shown(node));
                    return Err(WrongValue::Other { expected: format!("`{}`", wit(ty)), found });
                }
                for field in record.fields() {
                    match (fields.iter().find(|(name, _)| *name == field.name), &field.ty) {
                        (Some((_, node)), ty) => self.value(ty, node)?,
                        (None, Type::Option(_)) => {
                            self.tape.value()?;
                            self.mark(0)?;
                        }
                        (None, ty) => {
                            let expected = format!("the field `{}: {}`", field.name, wit(ty));
                            return Err(WrongValue::Other { expected, found: self.shown(node) });
                        }
                    }
                }
            }
            Type::Tuple(tuple) => {
                let nodes = self.or_wrong(ty, node, node.as_tuple())?;
                if nodes.len() != tuple.types().len() {
                    return Err(self.wrong(ty, node));
                }
                for (ty, node) in tuple.types().zip(nodes) {
                    self.value(&ty, node)?;
                }
            }
            Type::Variant(variant) => {
                let (name, payload) = self.or_wrong(ty, node, node.as_variant(text))?;
                let case = variant.cases().enumerate().find(|(_, case)| case.name == name);
                let (place, case) = case.ok_or_else(|| self.wrong(ty, node))?;
                self.mark(place)?;
                self.payload(ty, node, case.ty, payload)?;
            }
            Type::Enum(names) => {
                let name = self.or_wrong(ty, node, node.as_enum(text))?;
                let place = names.names().position(|known| known == name);
                self.mark(place.ok_or_else(|| self.wrong(ty, node))?)?;
            }
            Type::Option(option) => match (node.as_option(), option.ty()) {
                (Ok(None), _) => self.mark(0)?,
                (Ok(Some(node)), ty) => {
                    self.mark(1)?;
                    self.value(&ty, node)?;
                }
                (Err(_), payload) if may_stand_alone(&payload) => {
                    self.mark(1)?;
                    self.value(&payload, node)?;
                }
                (Err(_), _) => return Err(self.wrong(ty, node)),
            },
            Type::Result(result) => match (node.as_result(), result.ok()) {
                (Ok(Ok(payload)), ok) => {
                    self.mark(0)?;
                    self.payload(ty, node, ok, payload)?;
                }
                (Ok(Err(payload)), _) => {
                    self.mark(1)?;
                    self.payload(ty, node, result.err(), payload)?;
                }
                (Err(_), Some(ok)) if may_stand_alone(&ok) => {
                    self.mark(0)?;
                    self.value(&ok, node)?;
                }
                (Err(_), _) => return Err(self.wrong(ty, node)),
            },
            Type::Flags(flags) => {
                let mut bits = 0_u32;
                for name in self.or_wrong(ty, node, node.as_flags(text))? {
                    let name = name.strip_prefix('%').unwrap_or(name);
                    let place = flags.names().position(|known| known == name).and_then(|at| u32::try_from(at).ok());
                    // There are never more than 32.
                    bits |= place.and_then(|at| 1_u32.checked_shl(at)).ok_or_else(|| self.wrong(ty, node))?;
                }
                self.tape.mark(bits);
            }
            // See `link::untransferable`.
            Type::Own(_)
            | Type::Borrow(_)
            | Type::Future(_)
            | Type::Stream(_)
            | Type::ErrorContext
            | Type::FixedLengthList(_)
            | Type::Map(_) => return Err(self.wrong(ty, node)),
        }
        Ok(())
    }

    /// Records what is in a case, which must be there just if the type has something in that case.
    fn payload(
        &mut self,
        whole: &Type,
        node: &Node,
        ty: Option<Type>,
        payload: Option<&Node>,
    ) -> Result<(), WrongValue> {
        match (ty, payload) {
            (Some(ty), Some(payload)) => self.value(&ty, payload),
            (None, None) => Ok(()),
            _ => Err(self.wrong(whole, node)),
        }
    }

    fn mark(&mut self, number: usize) -> Result<(), WrongValue> {
        self.tape.mark(u32::try_from(number).map_err(|_| NotCarried::TooLarge)?);
        Ok(())
    }

    fn or_wrong<T, E>(&self, ty: &Type, node: &Node, read: Result<T, E>) -> Result<T, WrongValue> {
        read.map_err(|_| self.wrong(ty, node))
    }

    fn wrong(&self, ty: &Type, node: &Node) -> WrongValue {
        WrongValue::Other { expected: format!("`{}`", wit(ty)), found: self.shown(node) }
    }

    fn shown(&self, node: &Node) -> String {
        self.text.part(node.span())
    }
}

/// Whether a value of this type is told apart from `some`, `none`, `ok` and `err`, which may then be left out around it.
fn may_stand_alone(payload: &Type) -> bool {
    !matches!(payload, Type::Option(_) | Type::Result(_))
}
