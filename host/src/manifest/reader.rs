//! A cursor over parsed TOML that reports everything wrong at once.
//!
//! serde stops at the first error and forgets where values stood, so sections are read by hand instead: a [`Table`]
//! hands out its keys one by one, and what nobody asked for by [`Table::finish`] is unknown. A value that cannot be
//! read is reported and then replaced by a stand-in or left out, so that reading goes on; no manifest with a report
//! against it is ever handed out.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    fmt::Display,
    net::SocketAddr,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::{DeTable, DeValue};

use super::{
    error::{ManifestError, Place, Placed},
    values::{ShowDuration, ShowSize, parse_duration, parse_size},
};

/// The text being read, and what was found wrong with it so far.
pub(super) struct Document<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
    folder: PathBuf,
    errors: RefCell<Vec<ManifestError>>,
}

/// A table whose keys are taken one by one. An absent table reads like an empty one.
pub(super) struct Table<'a> {
    doc: &'a Document<'a>,
    key: String,
    place: Option<Place>,
    entries: Option<&'a DeTable<'a>>,
    known: Vec<&'static str>,
    /// Keys that exist but not here, and were reported.
    refused: Vec<&'static str>,
    /// Something else stands in its place, which is reported; what it lacks then says nothing new.
    broken: bool,
}

/// A value, its dotted key and its place.
pub(super) struct Value<'a> {
    doc: &'a Document<'a>,
    key: String,
    place: Place,
    span: Range<usize>,
    value: &'a DeValue<'a>,
}

/// Shows what the manifest's author wrote, without letting control characters reach a terminal.
pub(super) fn quoted(text: &str) -> String {
    format!("`{}`", text.escape_debug())
}

/// A character of the manifest's own text as a terminal may show it.
fn visible(c: char) -> String {
    if matches!(c, '"' | '\'' | '\\') { c.to_string() } else { c.escape_debug().to_string() }
}

/// " (did you mean `x`?)" if a known name is nearly `name`, else nothing.
pub(crate) fn did_you_mean<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    // The distance takes the product of both lengths, and nobody means a name that is longer than any may be.
    let short = |name: &str| name.len() <= 256;
    let tolerance = (name.chars().count() / 3).max(1);
    known
        .into_iter()
        .filter(|candidate| short(name) && short(candidate))
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= tolerance && *distance < candidate.chars().count())
        .min()
        .map_or_else(String::new, |(_, candidate)| format!(" (did you mean {}?)", quoted(candidate)))
}

/// `parent.name`, with quotes where TOML wants them.
pub(super) fn join_key(parent: &str, name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let name = if bare { name.to_owned() } else { format!("\"{}\"", name.escape_debug()) };
    if parent.is_empty() { name } else { format!("{parent}.{name}") }
}

// === impl Document ===

impl<'a> Document<'a> {
    /// Relative paths in the manifest start at `folder`.
    pub fn new(text: &'a str, folder: &Path) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Self { text, line_starts, folder: folder.to_owned(), errors: RefCell::default() }
    }

    /// The line and column of a byte offset.
    pub fn place(&self, offset: usize) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let before = self.text.get(self.line_starts[line - 1]..offset).unwrap_or_default();
        Place { line, column: before.chars().count() + 1 }
    }

    /// Reports an error.
    pub fn report(&self, place: Option<Place>, key: impl Into<String>, message: impl Into<String>) {
        self.errors.borrow_mut().push(ManifestError { place, key: key.into(), message: message.into() });
    }

    /// Reports an error at the place of a value read before.
    pub fn report_at<T>(&self, at: &Placed<T>, message: impl Into<String>) {
        self.report(at.place, at.key.clone(), message);
    }

    /// Whether anything was reported for a key that starts with `prefix`.
    pub fn has_errors_under(&self, prefix: &str) -> bool {
        self.errors.borrow().iter().any(|error| error.key.starts_with(prefix))
    }

    /// All that was reported.
    pub fn into_errors(self) -> Vec<ManifestError> {
        self.errors.into_inner()
    }

    /// The table that holds all others.
    pub fn root(&'a self, table: &'a DeTable<'a>) -> Table<'a> {
        Table {
            doc: self,
            key: String::new(),
            place: None,
            entries: Some(table),
            known: Vec::new(),
            refused: Vec::new(),
            broken: false,
        }
    }

    /// A path in the manifest: relative ones start at the manifest's folder.
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }
}

// === impl Table ===

impl<'a> Table<'a> {
    /// Whether it has no entry where it should have some.
    pub fn is_empty(&self) -> bool {
        !self.broken && self.entries.is_none_or(|entries| entries.is_empty())
    }

    /// Whether it has a key, without taking it.
    pub fn has(&self, key: &str) -> bool {
        self.entries.is_some_and(|entries| entries.contains_key(key))
    }

    /// Reports a key, if it is there, that is known but has no place in this table.
    pub fn refuse(&mut self, key: &'static str, message: impl Display) {
        if let Some((name, _)) = self.entries.and_then(|entries| entries.get_key_value(key)) {
            let place = Some(self.doc.place(name.span().start));
            self.doc.report(place, join_key(&self.key, key), message.to_string());
        }
        self.refused.push(key);
    }

    /// The last part of its key.
    pub fn name(&self) -> &str {
        self.key.rsplit('.').next().unwrap_or_default()
    }

    /// A value with the table's own key and place.
    pub fn placed<T>(&self, value: T) -> Placed<T> {
        Placed { value, key: self.key.clone(), place: self.place }
    }

    /// A default for `key`: nobody wrote it, so it has no place.
    pub fn default<T>(&self, key: &str, value: T) -> Placed<T> {
        Placed { value, key: join_key(&self.key, key), place: None }
    }

    /// Reports an error about the table.
    pub fn report(&self, message: impl Into<String>) {
        self.doc.report(self.place, self.key.clone(), message);
    }

    /// Reports an error about `field`: about the first of its parts that is one of the table's keys, or about the table if
    /// none is.
    pub fn report_field(&self, field: &str, message: impl Into<String>) {
        let parts: Vec<&str> = field.split('.').collect();
        let own = parts.iter().position(|part| self.known.contains(part));
        let key = own.map_or_else(|| self.key.clone(), |at| format!("{}.{}", self.key, parts[at..].join(".")));
        let written = own.and_then(|at| self.entries?.get_key_value(parts[at]));
        let place = written.map(|(_, value)| self.doc.place(value.span().start)).or(self.place);
        self.doc.report(place, key, message);
    }

    /// Whether something was found wrong in it.
    pub fn has_errors(&self) -> bool {
        self.doc.has_errors_under(&self.key)
    }

    /// Takes a key.
    pub fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        self.known.push(key);
        let (_, value) = self.entries?.get_key_value(key)?;
        Some(Value::new(self.doc, join_key(&self.key, key), value))
    }

    /// Takes a key that may be missing. `None` also if it could not be read, which is then reported.
    pub fn optional<T>(&mut self, key: &'static str, read: impl FnOnce(&Value<'a>) -> Option<T>) -> Option<T> {
        self.value(key).as_ref().and_then(read)
    }

    /// Takes a key that has a default.
    pub fn or<T>(&mut self, key: &'static str, default: T, read: impl FnOnce(&Value<'a>) -> Option<T>) -> T {
        self.optional(key, read).unwrap_or(default)
    }

    /// Takes a key that must be there; `expected` says what it holds.
    pub fn required<T>(
        &mut self,
        key: &'static str,
        expected: &str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Option<T> {
        let value = self.value(key);
        if value.is_none() && !self.broken {
            let message = format!("required key is missing; expected {expected}");
            self.doc.report(self.place, join_key(&self.key, key), message);
        }
        value.as_ref().and_then(read)
    }

    /// Takes a table. A missing one reads like an empty one.
    pub fn table(&mut self, key: &'static str) -> Table<'a> {
        let value = self.value(key);
        let broken = self.broken || value.is_some();
        value.as_ref().and_then(Value::table).unwrap_or_else(|| Table {
            doc: self.doc,
            key: join_key(&self.key, key),
            place: self.place,
            entries: None,
            known: Vec::new(),
            refused: Vec::new(),
            broken,
        })
    }

    /// Takes an array of tables. A missing one reads like an empty one.
    pub fn tables(&mut self, key: &'static str) -> Vec<Table<'a>> {
        let items = self.optional(key, |value| value.items("an array of tables")).unwrap_or_default();
        items.iter().enumerate().filter_map(|(i, item)| item.at(format!("{}[{i}]", item.key)).table()).collect()
    }

    /// All entries of a table whose keys are names that the author chose. The place of each is its name's.
    pub fn entries(self) -> impl Iterator<Item = (Placed<String>, Value<'a>)> {
        self.entries.into_iter().flatten().map(move |(name, value)| {
            let key = join_key(&self.key, name.get_ref());
            let place = Some(self.doc.place(name.span().start));
            let name = Placed { value: name.get_ref().to_string(), key: key.clone(), place };
            (name, Value::new(self.doc, key, value))
        })
    }

    /// What was not taken is unknown.
    pub fn finish(self) {
        for (name, _) in self.entries.into_iter().flatten() {
            let unknown = name.get_ref().as_ref();
            if !self.known.contains(&unknown) && !self.refused.contains(&unknown) {
                let meant = did_you_mean(unknown, self.known.iter().copied());
                let message = format!("unknown key{meant}; known keys here: {}", self.known.join(", "));
                let place = Some(self.doc.place(name.span().start));
                self.doc.report(place, join_key(&self.key, unknown), message);
            }
        }
    }
}

// === impl Value ===

impl<'a> Value<'a> {
    fn new(doc: &'a Document<'a>, key: String, value: &'a toml::Spanned<DeValue<'a>>) -> Self {
        Self { doc, key, place: doc.place(value.span().start), span: value.span(), value: value.get_ref() }
    }

    fn at(&self, key: String) -> Self {
        Self { doc: self.doc, key, place: self.place, span: self.span.clone(), value: self.value }
    }

    /// The document that it is part of.
    pub fn doc(&self) -> &'a Document<'a> {
        self.doc
    }

    /// Something read from this value.
    pub fn placed<T>(&self, value: T) -> Placed<T> {
        Placed { value, key: self.key.clone(), place: Some(self.place) }
    }

    /// Reports an error about this value.
    pub fn report<T>(&self, message: impl Into<String>) -> Option<T> {
        self.doc.report(Some(self.place), self.key.clone(), message);
        None
    }

    /// Reports that something else was expected here.
    pub fn expected<T>(&self, what: impl Display) -> Option<T> {
        self.report(format!("expected {what}, found {}", self.found()))
    }

    /// The value as it is written, or its kind if it is long.
    fn found(&self) -> String {
        let written = self.doc.text.get(self.span.clone()).unwrap_or_default();
        match self.value {
            DeValue::Table(_) => "a table".into(),
            DeValue::Array(_) => "an array".into(),
            _ if written.chars().count() > 60 || written.contains('\n') => format!("a long {}", self.value.type_str()),
            _ => format!("`{}`", written.chars().map(visible).collect::<String>()),
        }
    }

    /// A string.
    pub fn string(&self) -> Option<String> {
        self.str("a string").map(str::to_owned)
    }

    /// A string that holds `what`.
    pub fn str(&self, what: &str) -> Option<&'a str> {
        self.as_str().or_else(|| self.expected(what))
    }

    /// The string if this is one; reports nothing.
    pub fn as_str(&self) -> Option<&'a str> {
        match self.value {
            DeValue::String(string) => Some(string.as_ref()),
            _ => None,
        }
    }

    /// The boolean if this is one; reports nothing.
    pub fn as_boolean(&self) -> Option<bool> {
        self.value.as_bool()
    }

    /// Whether this is an array.
    pub fn is_array(&self) -> bool {
        self.value.is_array()
    }

    /// Whether this is a table.
    pub fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// The same value as an element of the array that its key names.
    pub fn nth(&self, at: usize) -> Self {
        self.at(format!("{}[{at}]", self.key))
    }

    /// Whether this is a whole number.
    pub fn is_integer(&self) -> bool {
        self.value.is_integer()
    }

    /// `true` or `false`.
    pub fn boolean(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.expected("`true` or `false`"))
    }

    /// A whole number within bounds.
    pub fn integer<T>(&self, bounds: RangeInclusive<T>) -> Option<T>
    where
        T: Copy + PartialOrd + Display + TryFrom<i128>,
    {
        let number = self.value.as_integer().and_then(|i| i128::from_str_radix(i.as_str(), i.radix()).ok());
        let number = number.and_then(|n| T::try_from(n).ok()).filter(|n| bounds.contains(n));
        number.or_else(|| self.expected(format_args!("a whole number from {} to {}", bounds.start(), bounds.end())))
    }

    /// A duration within bounds.
    pub fn duration(&self, bounds: RangeInclusive<Duration>) -> Option<Duration> {
        let Some(duration) = self.as_str().and_then(parse_duration) else {
            return self.expected("a duration such as \"250ms\" or \"5s\"");
        };
        let (least, most) = (ShowDuration(*bounds.start()), ShowDuration(*bounds.end()));
        let within = bounds.contains(&duration).then_some(duration);
        within.or_else(|| self.expected(format_args!("a duration from {least} to {most}")))
    }

    /// A number of bytes within bounds, plain or with a unit.
    pub fn size(&self, bounds: RangeInclusive<u64>) -> Option<u64> {
        let size = match self.value {
            DeValue::Integer(i) => u64::from_str_radix(i.as_str(), i.radix()).ok(),
            _ => self.as_str().and_then(parse_size),
        };
        let Some(size) = size else {
            return self.expected("a size such as \"64KiB\" or \"1MiB\", or a number of bytes");
        };
        let (least, most) = (ShowSize(*bounds.start()), ShowSize(*bounds.end()));
        let within = bounds.contains(&size).then_some(size);
        within.or_else(|| self.expected(format_args!("a size from {least} to {most}")))
    }

    /// An address to listen on.
    pub fn address(&self) -> Option<Placed<SocketAddr>> {
        let address = self.as_str().and_then(|s| s.parse().ok());
        let address = address.or_else(|| self.expected("an address and a port such as \"127.0.0.1:3000\""))?;
        Some(self.placed(address))
    }

    /// A path, resolved against the manifest's folder.
    pub fn path(&self) -> Option<Placed<PathBuf>> {
        let path = self.as_str().filter(|s| !s.is_empty() && !s.contains('\0'));
        let path = path.or_else(|| self.expected("a path"))?;
        Some(self.placed(self.doc.resolve(path)))
    }

    /// A string for each element, none twice.
    pub fn strings(&self, what: &str) -> Option<Vec<Placed<String>>> {
        let mut seen = BTreeSet::new();
        let mut strings = Vec::new();
        for item in self.items(format_args!("an array of {what}s"))? {
            let Some(string) = item.str(&format!("a {what}")) else { continue };
            if seen.insert(string) {
                strings.push(item.placed(string.to_owned()));
            } else {
                item.report::<()>(format!("{} is listed twice", quoted(string)));
            }
        }
        Some(strings)
    }

    /// The elements of an array of `what`.
    pub fn items(&self, what: impl Display) -> Option<Vec<Value<'a>>> {
        match self.value {
            DeValue::Array(array) => {
                Some(array.iter().map(|item| Value::new(self.doc, self.key.clone(), item)).collect())
            }
            _ => self.expected(what),
        }
    }

    /// A table.
    pub fn table(&self) -> Option<Table<'a>> {
        match self.value {
            DeValue::Table(table) => Some(Table {
                doc: self.doc,
                key: self.key.clone(),
                place: Some(self.place),
                entries: Some(table),
                known: Vec::new(),
                refused: Vec::new(),
                broken: false,
            }),
            _ => self.expected("a table"),
        }
    }
}
