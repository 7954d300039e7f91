//! Patterns in the dialect of Kafka's clients, which is RE2/J's: one translation for every API that takes one.
//!
//! A pattern is read as RE2/J 1.8 reads it, and written anew for the `regex-automata` crate without its flags: each
//! piece of the translation means the same wherever it stands. What RE2/J refuses is refused, and what it takes
//! is taken, unless the compiled pattern needs more than [`PATTERN_BYTES`] or groups are nested too deeply.
//! Invariant: names match as a whole or not at all. `pattern/re2j.txt` holds what RE2/J says of some hundred patterns.

use regex_automata::meta::Regex;

use crate::limits::PATTERN_BYTES;

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// Why it is not valid, in RE2/J's words where it would refuse it as well.
    pub fn compile(pattern: &str) -> Result<Pattern, String> {
        let translated = Translator::new(pattern).translate()?;
        let config = Regex::config().nfa_size_limit(Some(PATTERN_BYTES));
        let built = Regex::builder().configure(config).build(&translated);
        built.map(Pattern).map_err(|error| match error.size_limit() {
            Some(limit) => format!("it takes more than {limit} bytes"),
            None => "it is nested too deeply".to_owned(),
        })
    }

    /// Whether the pattern matches the whole text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

const MISSING_PAREN: &str = "missing closing )";
const MISSING_BRACKET: &str = "missing closing ]";
const INVALID_ESCAPE: &str = "invalid escape sequence";
const INVALID_RANGE: &str = "invalid character class range";
const INVALID_NAME: &str = "invalid named capture";
const INVALID_FLAG: &str = "invalid or unsupported Perl syntax";
const MISSING_ARGUMENT: &str = "missing argument to repetition operator";
const NESTED_REPETITION: &str = "invalid nested repetition operator";
const INVALID_COUNT: &str = "invalid repeat count";

/// The greatest count of a repetition.
const MOST_REPEATED: u32 = 1000;

/// Bytes of the longest count that can be valid, and some more.
const LONGEST_COUNT: usize = 24;

/// Bytes of the longest name of a class, with its brackets.
const LONGEST_CLASS: usize = 12;

type Parsed<T> = Result<T, &'static str>;

#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    ignores_case: bool,
    is_multiline: bool,
    dot_is_newline: bool,
}

/// A count in braces; without a greatest one there is no end.
struct Count {
    least: u32,
    most: Option<u32>,
}

struct Translator<'p> {
    /// What has not been read yet.
    rest: &'p str,
    /// How much of it is left where the last `:]` begins; `usize::MAX` if there is none.
    last_class_end: usize,
    translated: String,
    flags: Flags,
    /// The flags before each group that is open.
    open: Vec<Flags>,
    names: Vec<&'p str>,
    /// Whether there is something that a repetition could repeat.
    is_repeatable: bool,
    /// Whether a repetition was read last.
    is_repeated: bool,
}

impl<'p> Translator<'p> {
    fn new(pattern: &'p str) -> Translator<'p> {
        Translator {
            rest: pattern,
            last_class_end: pattern.rfind(":]").map_or(usize::MAX, |end| pattern.len() - end),
            translated: String::with_capacity(2 * pattern.len()),
            flags: Flags::default(),
            open: Vec::new(),
            names: Vec::new(),
            is_repeatable: false,
            is_repeated: false,
        }
    }

    fn translate(mut self) -> Parsed<String> {
        self.translated.push_str("\\A(?:");
        while let Some(next) = self.rest.chars().next() {
            self.is_repeated = self.piece(next)?;
        }
        if !self.open.is_empty() {
            return Err(MISSING_PAREN);
        }
        self.translated.push_str(")\\z");
        Ok(self.translated)
    }

    /// Translates what begins with `next`; whether it is a repetition.
    fn piece(&mut self, next: char) -> Parsed<bool> {
        match next {
            '*' | '+' | '?' => {
                self.skip(1);
                self.repeat(&next.to_string())?;
                return Ok(true);
            }
            '{' => {
                match self.count()? {
                    Some(Count { least, most: None }) => self.repeat(&format!("{{{least},}}"))?,
                    Some(Count { least, most: Some(most) }) => self.repeat(&format!("{{{least},{most}}}"))?,
                    None => self.next_literal(),
                }
                // As in RE2/J also if the brace stands for itself.
                return Ok(true);
            }
            '(' if self.rest.starts_with("(?") => self.perl_group()?,
            '(' => {
                self.skip(1);
                self.open_group();
            }
            ')' => self.close_group()?,
            '|' => {
                self.skip(1);
                self.translated.push('|');
                self.is_repeatable = false;
            }
            '.' => self.atom(1, if self.flags.dot_is_newline { "(?s:.)" } else { "." }),
            '^' => self.atom(1, if self.flags.is_multiline { "(?m:^)" } else { "\\A" }),
            '$' => self.atom(1, if self.flags.is_multiline { "(?m:$)" } else { "\\z" }),
            '[' => self.class()?,
            '\\' => self.escaped()?,
            _ => self.next_literal(),
        }
        Ok(false)
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn pop(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.skip(next.len_utf8());
        Some(next)
    }

    fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Replaces `bytes` of the pattern by something that may be repeated.
    fn atom(&mut self, bytes: usize, translated: &str) {
        self.skip(bytes);
        self.translated.push_str(translated);
        self.is_repeatable = true;
    }

    fn next_literal(&mut self) {
        let next = self.pop().expect("a character is next");
        self.literal(next);
    }

    fn literal(&mut self, literal: char) {
        let is_plain = literal.is_ascii_alphanumeric() || matches!(literal, '-' | '_');
        let text = if is_plain { literal.to_string() } else { code_point(literal.into()) };
        match self.flags.ignores_case && (literal.is_alphabetic() || !literal.is_ascii()) {
            true => self.atom(0, &format!("(?i:{text})")),
            false => self.atom(0, &text),
        }
    }

    fn repeat(&mut self, operator: &str) -> Parsed<()> {
        // Whether few or many are tried first is all the same to whole matches.
        self.eat("?");
        if self.is_repeated {
            return Err(NESTED_REPETITION);
        }
        if !self.is_repeatable {
            return Err(MISSING_ARGUMENT);
        }
        self.translated.push_str(operator);
        Ok(())
    }

    /// The count in braces that is next; `None` if there is none and the brace stands for itself.
    fn count(&mut self) -> Parsed<Option<Count>> {
        let Some(end) = self.rest.bytes().take(LONGEST_COUNT).position(|byte| byte == b'}') else { return Ok(None) };
        let inside = &self.rest[1..end];
        let (least, most) = match inside.split_once(',') {
            None => (number(inside), Some(inside)),
            Some((least, "")) => (number(least), None),
            Some((least, most)) => (number(least), Some(most)),
        };
        let (Some(least), most) = (least, most.map(number)) else { return Ok(None) };
        let most = match most {
            Some(None) => return Ok(None),
            Some(Some(most)) => Some(most),
            None => None,
        };
        if least > MOST_REPEATED || most.is_some_and(|most| most > MOST_REPEATED || most < least) {
            return Err(INVALID_COUNT);
        }
        self.skip(end + 1);
        Ok(Some(Count { least, most }))
    }

    fn open_group(&mut self) {
        self.open.push(self.flags);
        self.translated.push_str("(?:");
        self.is_repeatable = false;
    }

    fn close_group(&mut self) -> Parsed<()> {
        self.flags = self.open.pop().ok_or("unexpected )")?;
        self.atom(1, ")");
        Ok(())
    }

    /// A group with a name, a group with flags, or flags alone.
    fn perl_group(&mut self) -> Parsed<()> {
        if self.eat("(?P<") || self.eat("(?<") {
            let (name, rest) = self.rest.split_once('>').ok_or(INVALID_NAME)?;
            if name.is_empty() || !name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()) {
                return Err(INVALID_NAME);
            }
            if self.names.contains(&name) {
                return Err("duplicate capture group name");
            }
            self.names.push(name);
            self.rest = rest;
            self.open_group();
            return Ok(());
        }
        self.skip(2);
        let (mut flags, mut is_set, mut last) = (self.flags, true, None);
        loop {
            let next = self.pop().ok_or(INVALID_FLAG)?;
            match next {
                'i' => flags.ignores_case = is_set,
                'm' => flags.is_multiline = is_set,
                's' => flags.dot_is_newline = is_set,
                // Greed is all the same to whole matches.
                'U' => {}
                '-' if is_set => is_set = false,
                ':' | ')' if last != Some('-') => {
                    if next == ':' {
                        self.open_group();
                    }
                    self.flags = flags;
                    return Ok(());
                }
                _ => return Err(INVALID_FLAG),
            }
            last = Some(next);
        }
    }

    /// A backslash and what follows it, outside of brackets.
    fn escaped(&mut self) -> Parsed<()> {
        match self.rest[1..].chars().next() {
            Some('A') => self.atom(2, "\\A"),
            Some('z') => self.atom(2, "\\z"),
            Some('b') => self.atom(2, "(?-u:\\b)"),
            Some('B') => self.atom(2, "(?-u:\\B)"),
            Some('Q') => {
                let (literals, rest) = self.rest[2..].split_once("\\E").unwrap_or((&self.rest[2..], ""));
                literals.chars().for_each(|literal| self.literal(literal));
                self.rest = rest;
            }
            _ => match self.class_escape()? {
                Some(class) => self.bracketed("", &class),
                None => {
                    let code = self.escape()?;
                    match char::from_u32(code) {
                        Some(literal) => self.literal(literal),
                        None => self.bracketed("^", ANY),
                    }
                }
            },
        }
        Ok(())
    }

    /// A class, from its inside in the translation's dialect.
    fn bracketed(&mut self, sign: &str, inside: &str) {
        match self.flags.ignores_case {
            true => self.atom(0, &format!("(?i:[{sign}{inside}])")),
            false => self.atom(0, &format!("[{sign}{inside}]")),
        }
    }

    /// A class in brackets.
    fn class(&mut self) -> Parsed<()> {
        self.skip(1);
        let is_negated = self.eat("^");
        let mut inside = String::new();
        let mut is_first = true;
        while is_first || !self.rest.starts_with(']') {
            is_first = false;
            if let Some(class) = self.named_class()? {
                inside.push_str(class);
                continue;
            }
            if let Some(class) = self.class_escape()? {
                inside.push_str(&class);
                continue;
            }
            let low = self.class_character()?;
            let mut high = low;
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.skip(1);
                high = self.class_character()?;
                if high < low {
                    return Err(INVALID_RANGE);
                }
            }
            push_range(&mut inside, low, high);
        }
        self.skip(1);
        match (inside.is_empty(), is_negated) {
            // Nothing but halves of surrogate pairs, which no name holds.
            (true, false) => self.bracketed("^", ANY),
            (true, true) => self.bracketed("", ANY),
            (false, false) => self.bracketed("", &inside),
            (false, true) => self.bracketed("^", &inside),
        }
        Ok(())
    }

    /// A class such as `[:alpha:]`, inside of brackets.
    fn named_class(&mut self) -> Parsed<Option<&'p str>> {
        if !self.rest.starts_with("[:") || self.rest.len() < self.last_class_end {
            return Ok(None);
        }
        let name = self.rest.as_bytes();
        let end = name.windows(2).take(LONGEST_CLASS).position(|end| end == b":]").ok_or(INVALID_RANGE)?;
        let class = &self.rest[..end + 2];
        let name = class.get(2..end).unwrap_or_default();
        if !POSIX_CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err(INVALID_RANGE);
        }
        self.skip(class.len());
        Ok(Some(class))
    }

    fn class_character(&mut self) -> Parsed<u32> {
        match self.rest.starts_with('\\') {
            true => self.escape(),
            false => self.pop().map(u32::from).ok_or(MISSING_BRACKET),
        }
    }

    /// An escape that stands for a class, as it is written inside of brackets.
    fn class_escape(&mut self) -> Parsed<Option<String>> {
        let mut behind = self.rest.chars().skip(1);
        let kind = behind.next().filter(|_| self.rest.starts_with('\\'));
        let digits = "0-9";
        let spaces = "\\t\\n\\x{C}\\r\\x{20}";
        let words = "0-9A-Za-z_";
        let class = match kind {
            Some('d') => digits.to_owned(),
            Some('D') => format!("[^{digits}]"),
            Some('s') => spaces.to_owned(),
            Some('S') => format!("[^{spaces}]"),
            Some('w') => words.to_owned(),
            Some('W') => format!("[^{words}]"),
            Some(kind @ ('p' | 'P')) => {
                self.skip(2);
                return self.unicode_class(kind == 'P').map(Some);
            }
            _ => return Ok(None),
        };
        self.skip(2);
        Ok(Some(class))
    }

    /// The rest of `\p`, with one letter or a name in braces.
    fn unicode_class(&mut self, is_negated: bool) -> Parsed<String> {
        let name = match self.eat("{") {
            true => {
                let (name, rest) = self.rest.split_once('}').ok_or(INVALID_RANGE)?;
                self.rest = rest;
                name
            }
            false => {
                let letter = self.rest.chars().next().ok_or(INVALID_RANGE)?;
                let name = &self.rest[..letter.len_utf8()];
                self.skip(name.len());
                name
            }
        };
        let (is_negated, name) = match name.strip_prefix('^') {
            Some(name) => (!is_negated, name),
            None => (is_negated, name),
        };
        let class = match name {
            "Any" => ANY.to_owned(),
            // No name holds half of a surrogate pair.
            "Cs" => format!("[^{ANY}]"),
            "C" => "\\p{Cc}\\p{Cf}\\p{Co}".to_owned(),
            _ if CATEGORIES.contains(&name) => format!("\\p{{gc={name}}}"),
            _ if SCRIPTS.contains(&name) => format!("\\p{{sc={name}}}"),
            _ => return Err(INVALID_RANGE),
        };
        Ok(if is_negated { format!("[^{class}]") } else { class })
    }

    /// The code of an escaped character.
    fn escape(&mut self) -> Parsed<u32> {
        self.skip(1);
        let escaped = self.pop().ok_or("trailing backslash at end of expression")?;
        match escaped {
            // A digit alone would be a reference to a group.
            '1'..='7' if !self.rest.starts_with(|next: char| next.is_digit(8)) => Err(INVALID_ESCAPE),
            '0'..='7' => {
                let mut code = escaped.to_digit(8).expect("an octal digit");
                for _ in 0..2 {
                    let Some(digit) = self.rest.chars().next().and_then(|next| next.to_digit(8)) else { break };
                    self.skip(1);
                    code = code * 8 + digit;
                }
                Ok(code)
            }
            'x' => self.hexadecimal(),
            'a' => Ok(7),
            'f' => Ok(12),
            'n' => Ok(10),
            'r' => Ok(13),
            't' => Ok(9),
            'v' => Ok(11),
            _ if !escaped.is_ascii_alphanumeric() => Ok(escaped.into()),
            _ => Err(INVALID_ESCAPE),
        }
    }

    fn hexadecimal(&mut self) -> Parsed<u32> {
        let (digits, rest) = match self.eat("{") {
            true => self.rest.split_once('}').ok_or(INVALID_ESCAPE)?,
            false => self.rest.split_at_checked(2).ok_or(INVALID_ESCAPE)?,
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(INVALID_ESCAPE);
        }
        self.rest = rest;
        let code = u32::from_str_radix(digits, 16).map_err(|_| INVALID_ESCAPE)?;
        if code > u32::from(char::MAX) { Err(INVALID_ESCAPE) } else { Ok(code) }
    }
}

/// All characters, as they are written inside of brackets.
const ANY: &str = "\\x{0}-\\x{10FFFF}";

const POSIX_CLASSES: &[&str] = &[
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// The categories that RE2/J knows.
const CATEGORIES: &[&str] = &[
    "Cc", "Cf", "Co", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl", "No", "P", "Pc", "Pd",
    "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
];

/// The scripts that RE2/J knows.
const SCRIPTS: &[&str] = &[
    "Arabic",
    "Armenian",
    "Avestan",
    "Balinese",
    "Bamum",
    "Batak",
    "Bengali",
    "Bopomofo",
    "Brahmi",
    "Braille",
    "Buginese",
    "Buhid",
    "Canadian_Aboriginal",
    "Carian",
    "Cham",
    "Cherokee",
    "Common",
    "Coptic",
    "Cuneiform",
    "Cypriot",
    "Cyrillic",
    "Deseret",
    "Devanagari",
    "Egyptian_Hieroglyphs",
    "Ethiopic",
    "Georgian",
    "Glagolitic",
    "Gothic",
    "Greek",
    "Gujarati",
    "Gurmukhi",
    "Han",
    "Hangul",
    "Hanunoo",
    "Hebrew",
    "Hiragana",
    "Imperial_Aramaic",
    "Inherited",
    "Inscriptional_Pahlavi",
    "Inscriptional_Parthian",
    "Javanese",
    "Kaithi",
    "Kannada",
    "Katakana",
    "Kayah_Li",
    "Kharoshthi",
    "Khmer",
    "Lao",
    "Latin",
    "Lepcha",
    "Limbu",
    "Linear_B",
    "Lisu",
    "Lycian",
    "Lydian",
    "Malayalam",
    "Mandaic",
    "Meetei_Mayek",
    "Mongolian",
    "Myanmar",
    "New_Tai_Lue",
    "Nko",
    "Ogham",
    "Ol_Chiki",
    "Old_Italic",
    "Old_Persian",
    "Old_South_Arabian",
    "Old_Turkic",
    "Oriya",
    "Osmanya",
    "Phags_Pa",
    "Phoenician",
    "Rejang",
    "Runic",
    "Samaritan",
    "Saurashtra",
    "Shavian",
    "Sinhala",
    "Sundanese",
    "Syloti_Nagri",
    "Syriac",
    "Tagalog",
    "Tagbanwa",
    "Tai_Le",
    "Tai_Tham",
    "Tai_Viet",
    "Tamil",
    "Telugu",
    "Thaana",
    "Thai",
    "Tibetan",
    "Tifinagh",
    "Ugaritic",
    "Vai",
    "Yi",
];

/// A number without zeros before it; one that is too long counts as too great.
fn number(digits: &str) -> Option<u32> {
    let has_digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_number = has_digits && (digits.len() == 1 || !digits.starts_with('0'));
    is_number.then(|| digits.parse().unwrap_or(u32::MAX))
}

fn code_point(code: u32) -> String {
    format!("\\x{{{code:X}}}")
}

/// Adds a range, without the halves of surrogate pairs, which no name holds.
fn push_range(class: &mut String, low: u32, high: u32) {
    for (low, high) in [(low, high.min(0xD7FF)), (low.max(0xE000), high)] {
        if low <= high {
            class.push_str(&format!("{}-{}", code_point(low), code_point(high)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts and patterns in the table are ASCII; what is not stands as `<U+00E9>`.
    fn unescaped(text: &str) -> String {
        let mut pieces = text.split("<U+");
        let mut unescaped = pieces.next().expect("a first piece").to_owned();
        for piece in pieces {
            let (code, rest) = piece.split_once('>').expect("a code point ends");
            let code = u32::from_str_radix(code, 16).expect("a code point");
            unescaped.push(char::from_u32(code).expect("a character"));
            unescaped.push_str(rest);
        }
        unescaped
    }

    #[test]
    fn patterns_mean_what_they_mean_to_re2j() {
        let mut lines = include_str!("pattern/re2j.txt").lines().filter(|line| !line.starts_with("//"));
        let texts: Vec<_> = lines.next().expect("the texts").split('\t').skip(1).map(unescaped).collect();
        let mut differing = Vec::new();
        for line in lines {
            let mut fields = line.split('\t').map(unescaped);
            let (pattern, verdict) = (fields.next().expect("a pattern"), fields.next().expect("a verdict"));
            let matched: Vec<_> = fields.collect();
            let here = match Pattern::compile(&pattern) {
                Ok(compiled) => Ok(texts.iter().filter(|text| compiled.is_match(text)).cloned().collect::<Vec<_>>()),
                Err(why) => Err(why),
            };
            let agrees = match (&here, &*verdict) {
                (Ok(here), "matches") => *here == matched,
                (Err(_), "refused") => true,
                _ => false,
            };
            if !agrees {
                differing.push(format!("{pattern:?}: {verdict} {matched:?} by RE2/J, here {here:?}"));
            }
        }
        assert!(differing.is_empty(), "{}", differing.join("\n"));
    }

    #[test]
    fn what_is_long_but_sane_is_taken_and_what_explodes_is_not() {
        let names: Vec<_> = (0..1_150).map(|number| format!("team-{number:04}.orders.events-v1")).collect();
        let long = names.join("|");
        assert!(long.len() > 30_000, "about as long as the protocol allows");
        for pattern in [long.clone(), format!("(?i){long}"), format!("({long})\\.(dead-letters|retries)?")] {
            let compiled = Pattern::compile(&pattern).unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(compiled.is_match("team-0999.orders.events-v1"), !pattern.contains("dead"));
            assert!(!compiled.is_match("team-1150.orders.events-v1"));
        }
        let wide = Pattern::compile("[^.]{1,100}\\..{1,100}\\.\\w{1,200}").expect("counts of any size");
        assert!(wide.is_match("a.b.c"));
        for pattern in ["(a{1000}){1000}", "((.{100}){100}){100}", "(\\pL{1000}){100}"] {
            assert!(Pattern::compile(pattern).is_err(), "{pattern} is as large as it is when it is written out");
        }
        assert!(Pattern::compile(&"(".repeat(30_000)).is_err());
        assert!(Pattern::compile(&format!("{}a{}", "(".repeat(15_000), ")".repeat(15_000))).is_err());
        assert!(Pattern::compile(&format!("{}a{}", "(".repeat(200), ")".repeat(200))).is_ok());
    }
}
