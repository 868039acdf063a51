//! Rust source, split into code, comments and string literals.
//!
//! A parser would lose the comments and not look inside macro calls, and both matter to the rules; so this is only a
//! lexer (line and nested block comments, plain, byte, C and raw strings, characters, lifetimes), and what needs more
//! structure matches brackets over the code that is left. The lexical structure is that of the Rust reference,
//! chapters "Comments" and "Tokens".

/// A comment or the content of a string literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Of its first character, from 1.
    pub line: usize,
    /// Byte offset of its first character.
    pub at: usize,
    pub text: String,
}

/// One Rust file after lexing.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file with comments, and what literals hold, replaced by spaces: same length, same lines.
    pub code: String,
    pub comments: Vec<Piece>,
    pub strings: Vec<Piece>,
    line_starts: Vec<usize>,
}

/// A function with a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// The line of `fn`, from 1.
    pub line: usize,
    /// From `fn` to the closing brace, both included.
    pub lines: usize,
}

impl Source {
    pub fn lex(text: &str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut lexer = Lexer {
            bytes: text.as_bytes(),
            text,
            at: 0,
            code: text.as_bytes().to_vec(),
            comments: Vec::new(),
            strings: Vec::new(),
        };
        lexer.run();
        let Lexer { code, comments, strings, .. } = lexer;
        let mut source = Self {
            code: String::from_utf8_lossy(&code).into_owned(),
            comments: Vec::new(),
            strings: Vec::new(),
            line_starts,
        };
        source.comments = source.pieces(text, comments);
        source.strings = source.pieces(text, strings);
        source
    }

    fn pieces(&self, text: &str, spans: Vec<(usize, usize)>) -> Vec<Piece> {
        spans
            .into_iter()
            .map(|(at, end)| Piece { line: self.line(at), at, text: text[at..end].to_owned() })
            .collect()
    }

    /// The line of a byte offset, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= at)
    }

    /// Every place where the code holds `needle` between things that are no part of a name.
    pub fn words<'a>(&'a self, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
        let bytes = self.code.as_bytes();
        self.code.match_indices(needle).map(|(at, _)| at).filter(move |at| {
            let before = at.checked_sub(1).map(|i| bytes[i]);
            let after = bytes.get(at + needle.len()).copied();
            let starts = needle.as_bytes().first().is_some_and(|byte| is_name(*byte));
            let ends = needle.as_bytes().last().is_some_and(|byte| is_name(*byte));
            let inside = starts && before.is_some_and(is_name) || ends && after.is_some_and(is_name);
            !inside
        })
    }

    /// Every function that has a body, in source order, nested ones included.
    pub fn functions(&self) -> Vec<Function> {
        let bytes = self.code.as_bytes();
        let mut functions = Vec::new();
        for at in self.words("fn") {
            let Some(name) = self.name_after(at + 2) else { continue };
            let Some(open) = self.body(at + 2) else { continue };
            let end = matching(bytes, open);
            let (first, last) = (self.line(at), self.line(end));
            functions.push(Function { name, line: first, lines: last - first + 1 });
        }
        functions
    }

    /// Byte ranges of what is compiled for tests only.
    pub fn test_regions(&self) -> Vec<(usize, usize)> {
        let bytes = self.code.as_bytes();
        ["#[cfg(test)]", "#[cfg(any(test", "#[cfg(all(test", "#[test]", "#[tokio::test"]
            .iter()
            .flat_map(|attribute| self.code.match_indices(attribute))
            .map(|(at, _)| match self.body(skip_attributes(bytes, at)) {
                Some(open) => (at, matching(bytes, open)),
                None => (at, at),
            })
            .collect()
    }

    /// The identifier that follows, if only blanks stand before it.
    fn name_after(&self, at: usize) -> Option<String> {
        let rest = &self.code[at..];
        let trimmed = rest.trim_start();
        if trimmed.len() == rest.len() {
            return None;
        }
        let name: String =
            trimmed.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == '#').collect();
        (!name.is_empty()).then_some(name)
    }

    /// The brace that opens an item's body; none when a semicolon ends the item first.
    fn body(&self, at: usize) -> Option<usize> {
        let mut depth = 0usize;
        for (offset, byte) in self.code.as_bytes().iter().enumerate().skip(at) {
            match byte {
                b'(' | b'[' => depth += 1,
                b')' | b']' => depth = depth.checked_sub(1)?,
                b'{' if depth == 0 => return Some(offset),
                b';' | b'}' if depth == 0 => return None,
                _ => {}
            }
        }
        None
    }
}

/// Where the item begins that the attributes at this place belong to.
fn skip_attributes(bytes: &[u8], mut at: usize) -> usize {
    loop {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        if bytes.get(at) != Some(&b'#') || bytes.get(at + 1) != Some(&b'[') {
            return at;
        }
        let mut depth = 0usize;
        while let Some(byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'[' => depth += 1,
                b']' if depth == 1 => break,
                b']' => depth -= 1,
                _ => {}
            }
        }
    }
}

/// The brace that closes the one at `open`; the end of the file when none does.
fn matching(bytes: &[u8], open: usize) -> usize {
    let mut depth = 0usize;
    for (offset, byte) in bytes.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return offset,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    bytes.len().saturating_sub(1)
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

struct Lexer<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    code: Vec<u8>,
    comments: Vec<(usize, usize)>,
    strings: Vec<(usize, usize)>,
}

impl Lexer<'_> {
    fn run(&mut self) {
        while let Some(byte) = self.byte(0) {
            match byte {
                b'/' if self.byte(1) == Some(b'/') => self.line_comment(),
                b'/' if self.byte(1) == Some(b'*') => self.block_comment(),
                b'"' => self.string(),
                b'\'' => self.character(),
                b'r' if self.at == 0 || !is_name(self.bytes[self.at - 1]) || self.after_prefix() => {
                    self.raw_string()
                }
                _ => self.at += 1,
            }
        }
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    /// True when the byte before is the `b` or `c` of `br"…"` or `cr"…"`.
    fn after_prefix(&self) -> bool {
        matches!(self.bytes[self.at - 1], b'b' | b'c') && (self.at < 2 || !is_name(self.bytes[self.at - 2]))
    }

    fn blank(&mut self, from: usize, to: usize) {
        for byte in &mut self.code[from..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }

    fn line_comment(&mut self) {
        let from = self.at;
        let to = self.text[from..].find('\n').map_or(self.bytes.len(), |length| from + length);
        self.comments.push((from, to));
        self.blank(from, to);
        self.at = to;
    }

    fn block_comment(&mut self) {
        let from = self.at;
        let mut depth = 0usize;
        while self.at < self.bytes.len() {
            match (self.byte(0), self.byte(1)) {
                (Some(b'/'), Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (Some(b'*'), Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        break;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.comments.push((from, self.at));
        self.blank(from, self.at);
    }

    fn string(&mut self) {
        self.at += 1;
        let from = self.at;
        while let Some(byte) = self.byte(0) {
            match byte {
                b'\\' => self.at += 2,
                b'"' => break,
                _ => self.at += 1,
            }
        }
        let to = self.at.min(self.bytes.len());
        self.strings.push((from, to));
        self.blank(from, to);
        self.at = to + 1;
    }

    fn raw_string(&mut self) {
        let hashes = self.bytes[self.at + 1..].iter().take_while(|byte| **byte == b'#').count();
        if self.byte(1 + hashes) != Some(b'"') {
            self.at += 1;
            return;
        }
        let from = self.at + 2 + hashes;
        let end = format!("\"{}", "#".repeat(hashes));
        let to = self.text[from..].find(&end).map_or(self.bytes.len(), |length| from + length);
        self.strings.push((from, to));
        self.blank(from, to);
        self.at = (to + end.len()).min(self.bytes.len());
    }

    /// A character literal, or else a lifetime.
    fn character(&mut self) {
        let from = self.at + 1;
        let content = match self.byte(1) {
            Some(b'\\') => self.text[from + 2..].find('\'').map(|length| length + 2),
            Some(_) => self.text[from..].chars().next().map(char::len_utf8),
            None => None,
        };
        match content {
            Some(length) if self.bytes.get(from + length) == Some(&b'\'') => {
                self.blank(from, from + length);
                self.at = from + length + 1;
            }
            _ => self.at = from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let source = Source::lex(
            "let a = \"fn x() { \\\" }\"; // fn y() {\n/* { /* } */ fn z */ let b = br#\"} \" {\"#;\nlet c = '{'; let d = '\\''; fn e<'a>(f: &'a str) {}\n",
        );
        assert!(
            !source.code.contains("fn x") && !source.code.contains("fn y") && !source.code.contains("fn z")
        );
        assert_eq!(source.strings.len(), 2);
        assert_eq!(source.strings[1].text, "} \" {");
        assert_eq!(source.strings[1].line, 2);
        assert_eq!(source.comments.len(), 2);
        assert_eq!(source.functions(), vec![Function { name: "e".into(), line: 3, lines: 1 }]);
    }

    #[test]
    fn a_function_is_counted_from_its_name_to_its_closing_brace() {
        let source = Source::lex(
            "trait T {\n    fn declared(&self);\n}\nfn long(\n    a: [u8; 2],\n) -> u8\nwhere\n    u8: Copy,\n{\n    let f: fn(u8) -> u8 = |x| { x };\n    f(a[0])\n}\n",
        );
        assert_eq!(source.functions(), vec![Function { name: "long".into(), line: 4, lines: 9 }]);
    }

    #[test]
    fn what_is_for_tests_only_is_known() {
        let text = "fn a() {}\n#[cfg(test)]\n#[allow(dead_code)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let source = Source::lex(text);
        let [(from, to)] = source.test_regions()[..] else { panic!("one region") };
        assert!(text[from..=to].contains("fn b") && !text[from..=to].contains("fn c"));
    }

    #[test]
    fn raw_identifiers_and_prefixes_do_not_confuse_it() {
        let source = Source::lex("let r#type = for_r; let s = r\"a\\\"; let c = c\"x\"; let n = cr#\"y\"#;");
        let texts: Vec<&str> = source.strings.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(texts, ["a\\", "x", "y"]);
    }
}
