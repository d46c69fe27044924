// The frames of the Python connectors, format version 2: docs/wire.md of the template has the format.
'use strict'

const { Decoder, Encoder, ExtData } = require('@msgpack/msgpack')

const KIND = { MESSAGES: 1, AGAIN: 2, ANSWER: 3, CONTROL: 4 }

const VERSION = 2
const HEADER_BYTES = 40
const DIGEST_BYTES = 16
const RUN_BYTES = 8
const JSON_CODE = 1
const MSGPACK_CODE = 2
const ANSWERS = 1
const SIGNED = 2
const DEEPEST = 256
const LARGEST_32 = 0xffffffff

const words = { encoder: new Encoder({ useBigInt64: true }), decoder: new Decoder({ useBigInt64: true }) }
const messages = new Decoder({ mapKeyConverter: textKey })

function textKey (key) {
  if (typeof key !== 'string') throw new Error(`the key ${key} is not a string`)
  return key
}

// Makes a frame; `serialization` is that of the body's messages, and 0 in control frames.
function pack ({ kind, sender, number = 0, count = 0, serialization = JSON_CODE, answers = true }, body) {
  const header = Buffer.alloc(HEADER_BYTES) // the base is 0: a topic is never forgotten here
  header[0] = VERSION
  header[1] = serialization
  header[2] = kind
  header.write(sender, 3, 'hex')
  header.writeBigUInt64BE(BigInt(number), 19)
  header.writeUInt32BE(count, 35)
  header[39] = answers ? ANSWERS : 0
  return Buffer.concat([header, body])
}

// Tells by its sender whether a payload is a frame of our own.
function isFrom (sender, payload) {
  return payload[0] === VERSION && payload.toString('hex', 3, 19) === sender
}

// Splits a payload; raises an error that says what is wrong if it is no frame.
function unpack (payload) {
  if (payload.length < HEADER_BYTES) throw new Error(`${payload.length} bytes are too few for a frame`)
  if (payload[0] !== VERSION) throw new Error(`format version ${payload[0]} is unknown, only ${VERSION} is known`)
  const frame = {
    serialization: payload[1],
    kind: payload[2],
    sender: payload.toString('hex', 3, 19),
    number: Number(payload.readBigUInt64BE(19)),
    base: Number(payload.readBigUInt64BE(27)),
    count: payload.readUInt32BE(35),
    answers: Boolean(payload[39] & ANSWERS),
    body: payload.subarray(HEADER_BYTES, payload.length - (payload[39] & SIGNED ? DIGEST_BYTES : 0))
  }
  if (frame.kind < KIND.MESSAGES || frame.kind > KIND.CONTROL) throw new Error(`kind ${frame.kind} is unknown`)
  if (frame.base > frame.number || frame.number + frame.count > Number.MAX_SAFE_INTEGER) {
    throw new Error(`number ${frame.number} (of ${frame.count} messages, counted from ${frame.base}) is impossible`)
  }
  if (frame.kind <= KIND.AGAIN && frame.count === 0) throw new Error('it carries no message')
  return frame
}

// Reads a payload: returns the frame, and what its kind has in the body.
function read (topic, payload, controlTopic) {
  const frame = unpack(payload)
  if (frame.kind === KIND.CONTROL) {
    const control = unpackControl(frame)
    if (control.questions.some(question => question.topic === controlTopic)) {
      throw new Error('it asks for messages on the cluster\'s own topic, which takes none')
    }
    return { frame, control }
  }
  if (topic === controlTopic) throw new Error('the topic is the cluster\'s own, and takes no messages')
  return frame.kind === KIND.ANSWER ? { frame, answer: unpackAnswer(frame) } : { frame, messages: messagesOf(frame) }
}

// Returns the messages of a frame of the first two kinds.
function messagesOf ({ kind, serialization, count, body }) {
  const array = kind === KIND.AGAIN ? body.subarray(endOfRuns(body, count)) : body
  const found = decode(serialization, array)
  if (!Array.isArray(found)) throw new Error('the body is not an array')
  if (found.length !== count) throw new Error(`it holds ${found.length} messages and claims ${count}`)
  return found
}

function decode (serialization, body) {
  if (serialization === JSON_CODE) return JSON.parse(body.toString())
  if (serialization !== MSGPACK_CODE) throw new Error(`serialisation ${serialization} is unknown`)
  const found = messages.decode(body)
  check(found, 0)
  return found
}

// Refuses what MessagePack has and JSON has not.
function check (value, depth) {
  const isOther = value instanceof Uint8Array || value instanceof Date || value instanceof ExtData
  const isNoNumber = typeof value === 'number' && !Number.isFinite(value)
  if (isOther || isNoNumber || depth > DEEPEST) throw new Error('no sender produces this body')
  if (value !== null && typeof value === 'object') Object.values(value).forEach(each => check(each, depth + 1))
}

function endOfRuns (body, count) {
  const runs = body.readUInt16BE(0)
  let total = 0
  for (let run = 0; run < runs; run++) total += body.readUInt32BE(2 + RUN_BYTES * run)
  if (total !== count) throw new Error('the ages of its messages do not fit them')
  return 2 + RUN_BYTES * runs
}

// Makes the body of a frame with messages that are sent again; `runs` are pairs of a count and an age in milliseconds.
function packAgain (runs, array) {
  const ages = Buffer.alloc(2 + RUN_BYTES * runs.length)
  ages.writeUInt16BE(runs.length, 0)
  runs.forEach(([count, age], index) => {
    ages.writeUInt32BE(count, 2 + RUN_BYTES * index)
    ages.writeUInt32BE(Math.min(Math.round(age), LARGEST_32), 6 + RUN_BYTES * index)
  })
  return Buffer.concat([ages, array])
}

// Makes the body of an answer; `replies` are triples of a question's id, the start and the first number that is kept.
function packAnswer (replies, reached, goesOn) {
  return word([replies, reached, goesOn])
}

function unpackAnswer ({ number, body }) {
  const [replies, reached, goesOn] = words.decoder.decode(body)
  const read = replies.map(([id, start, kept]) => ({ id: BigInt(id), start: natural(start), kept: natural(kept) }))
  if (read.some(({ start, kept }) => start > kept || kept > number)) throw new Error('it replies with impossible numbers')
  return { replies: read, reached: natural(reached), goesOn }
}

// Makes the body of a control frame.
function packControl ({ counts = [], topics = [], questions = [], isBack = false, isLeaving = false, clock = null }) {
  const asked = questions.map(({ target, topic, first, age, id }) => [Buffer.from(target, 'hex'), topic, first, age, id])
  const told = counts.map(({ topic, base = 0, number, given, quiet }) => [topic, base, number, given, quiet])
  return word([told, topics, asked, isBack, isLeaving, clock])
}

function unpackControl ({ body }) {
  const found = words.decoder.decode(body)
  if (!Array.isArray(found)) throw new Error('it is no control frame')
  const [counts = [], topics = [], questions = [], isBack = false, isLeaving = false, clock = null] = found
  const control = {
    counts: counts.map(([topic, ...numbers]) => {
      const [base, number, given, quiet] = numbers.slice(0, 4).map(natural)
      if (base > number || number > given) throw new Error('it announces an impossible number')
      return { topic, base, number, given, quiet }
    }),
    topics,
    questions: questions.map(([target, topic, first, age, id]) => ({
      target: Buffer.from(target).toString('hex'),
      topic,
      first: natural(first),
      age: age === null ? null : natural(age),
      id: BigInt(id)
    })),
    isBack,
    isLeaving,
    clock: clock === null ? null : Number(clock)
  }
  const names = [...topics, ...control.counts.map(({ topic }) => topic), ...control.questions.map(({ topic }) => topic)]
  if (!names.every(name => name && typeof name === 'string')) throw new Error('it names an impossible topic')
  if (control.questions.some(({ target }) => target.length !== 32)) throw new Error('it asks an impossible question')
  if (Number.isNaN(control.clock)) throw new Error('its clock is no number')
  return control
}

// Returns a number that counts something.
function natural (value) {
  const number = Number(value)
  if (!(Number.isInteger(number) && number >= 0)) throw new Error(`${value} is no count`)
  return number
}

// Encodes an array of numbers, texts and the like; integers that need more than 32 bits must stay integers.
function word (value) {
  return Buffer.from(words.encoder.encode(widen(value)))
}

function widen (value) {
  if (Array.isArray(value)) return value.map(widen)
  return typeof value === 'number' && value > LARGEST_32 ? BigInt(value) : value
}

module.exports = { KIND, RUN_BYTES, isFrom, pack, packAgain, packAnswer, packControl, read }
