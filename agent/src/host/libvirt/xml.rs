//! An XML element as a value: written with every text escaped, read with bounded depth and size.
//!
//! No XML of the agent is made by putting texts together (V11, S42): names, paths and metadata enter
//! only as attribute values or texts of an [`Element`], and what XML 1.0 cannot hold is an error.

use crate::Error;
use quick_xml::{
    Reader, Writer, XmlVersion,
    escape::resolve_predefined_entity,
    events::{BytesEnd, BytesStart, BytesText, Event},
};
use std::fmt::Display;

/// Deepest nesting that is read.
const DEPTH: usize = 64;
/// Longest text that is read, in bytes; libvirt's largest domain is far below.
const LONGEST: usize = 4 * 1024 * 1024;

/// One element with its attributes, text and children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// The tag, with its prefix.
    pub name: String,
    /// Attributes in order.
    pub attributes: Vec<(String, String)>,
    /// Text directly in it, trimmed when read.
    pub text: String,
    /// Children in order.
    pub children: Vec<Element>,
}

impl Element {
    /// An empty element.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn attr(mut self, name: &str, value: impl Display) -> Self {
        self.attributes.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds a child.
    #[must_use]
    pub fn child(mut self, child: Self) -> Self {
        self.children.push(child);
        self
    }

    /// Adds children.
    #[must_use]
    pub fn children(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// Sets the text.
    #[must_use]
    pub fn text(mut self, text: impl Display) -> Self {
        self.text = text.to_string();
        self
    }

    /// The first element under a path of tags: `devices/serial`.
    pub fn get(&self, path: &str) -> Option<&Self> {
        path.split('/').try_fold(self, |at, tag| at.children.iter().find(|c| c.name == tag))
    }

    /// All children with a tag.
    pub fn all<'a>(&'a self, tag: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |c| c.name == tag)
    }

    /// An attribute's value.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// An attribute of the element under a path.
    pub fn attribute_at(&self, path: &str, name: &str) -> Option<&str> {
        self.get(path)?.attribute(name)
    }

    /// The element as indented XML.
    pub fn render(&self) -> Result<String, Error> {
        let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
        self.write(&mut writer)?;
        let mut xml = String::from_utf8(writer.into_inner()).map_err(unwritable)?;
        xml.push('\n');
        Ok(xml)
    }

    fn write(&self, writer: &mut Writer<Vec<u8>>) -> Result<(), Error> {
        let mut start = BytesStart::new(self.name.as_str());
        for (name, value) in &self.attributes {
            representable(value)?;
            start.push_attribute((name.as_str(), value.as_str()));
        }
        representable(&self.text)?;
        if self.text.is_empty() && self.children.is_empty() {
            writer.write_event(Event::Empty(start)).map_err(unwritable)?;
            return Ok(());
        }
        writer.write_event(Event::Start(start)).map_err(unwritable)?;
        if !self.text.is_empty() {
            writer.write_event(Event::Text(BytesText::new(&self.text))).map_err(unwritable)?;
        }
        for child in &self.children {
            child.write(writer)?;
        }
        writer.write_event(Event::End(BytesEnd::new(self.name.as_str()))).map_err(unwritable)
    }

    /// Reads a document that has one root.
    pub fn parse(xml: &str) -> Result<Self, Error> {
        if xml.len() > LONGEST {
            return Err(unreadable(format!("{} bytes are too many", xml.len())));
        }
        let mut reader = Reader::from_str(xml);
        let mut open: Vec<Self> = Vec::new();
        loop {
            let closed = match reader.read_event().map_err(unreadable)? {
                Event::Start(start) => {
                    if open.len() >= DEPTH {
                        return Err(unreadable(format!("it nests deeper than {DEPTH}")));
                    }
                    open.push(read_start(&start)?);
                    None
                }
                Event::Empty(start) => Some(read_start(&start)?),
                Event::End(_) => open.pop(),
                Event::Text(text) => {
                    append(&mut open, &text.xml10_content());
                    None
                }
                Event::CData(text) => {
                    append(&mut open, &text.xml10_content());
                    None
                }
                Event::GeneralRef(reference) => {
                    let name = reference.xml10_content();
                    match (
                        reference.resolve_char_ref().map_err(unreadable)?,
                        resolve_predefined_entity(&name),
                    ) {
                        (Some(character), _) => append(&mut open, &character.to_string()),
                        (None, Some(text)) => append(&mut open, text),
                        (None, None) => return Err(unreadable(format!("unknown entity &{name};"))),
                    }
                    None
                }
                Event::Eof => return Err(unreadable("the XML ends before its root is closed")),
                Event::DocType(_) => return Err(unreadable("a document type has no place here")),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => None,
            };
            if let Some(mut element) = closed {
                element.text = element.text.trim().to_owned();
                match open.last_mut() {
                    Some(parent) => parent.children.push(element),
                    None => return Ok(element),
                }
            }
        }
    }
}

fn unreadable(why: impl Display) -> Error {
    Error::host("reading XML", why)
}

fn unwritable(why: impl Display) -> Error {
    Error::host("writing XML", why)
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

fn read_start(start: &BytesStart<'_>) -> Result<Element, Error> {
    let mut element = Element::new(start.name().as_ref());
    for attribute in start.attributes() {
        let attribute = attribute.map_err(unreadable)?;
        let value = attribute.normalized_value(XmlVersion::Explicit1_0).map_err(unreadable)?;
        element.attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
    }
    Ok(element)
}

/// XML 1.0, section 2.2: what a document may hold. Line ends in attributes would be folded, so they are refused too.
fn representable(text: &str) -> Result<(), Error> {
    match text.chars().find(|c| c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}')) {
        Some(character) => Err(unwritable(format!("{character:?} has no place in a domain's definition"))),
        None => Ok(()),
    }
}
