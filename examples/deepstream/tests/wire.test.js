// The frames of the JavaScript node against the test vectors of the format.
'use strict'

const assert = require('node:assert/strict')
const { readFileSync } = require('node:fs')
const test = require('node:test')
const wire = require('../wire')

const { frames, readable, refused } = JSON.parse(readFileSync(process.env.WIRE_VECTORS))
const SERIALIZATIONS = { json: 1, msgpack: 2 }

const BEYOND_JAVASCRIPT = 'ten messages in one frame in json' // 64-bit integers
const TAKEN = [ // what a Python node refuses, and this one does not look at
  'an integer of more than 64 bits',
  'JSON that is nested 257 deep'
]

const kindOf = vector => wire.KIND[vector.kind.toUpperCase()]

const read = vector => wire.read(vector.topic, Buffer.from(vector.frame, 'hex'), 'CONTROL')

// JSON has no integers of 64 bits in JavaScript: an id in a vector is the nearest number.
const near = id => Number(id)

for (const vector of [...frames, ...readable]) {
  test(`reads ${vector.name}`, () => {
    const { frame, control, answer, messages } = read(vector)
    assert.equal(frame.kind, kindOf(vector))
    assert.equal(frame.sender, vector.sender)
    assert.equal(frame.number, vector.number)
    assert.equal(frame.base, vector.base)
    assert.equal(frame.answers, vector.answers)
    if (messages) assert.deepEqual(messages, vector.messages)
    if (answer) {
      const replies = answer.replies.map(({ id, start, kept }) => [near(id), start, kept])
      assert.deepEqual({ replies, reached: answer.reached, goes_on: answer.goesOn }, vector.answer)
    }
    if (control) {
      const { counts, topics, questions, isBack, isLeaving, clock } = control
      assert.deepEqual({
        counts: counts.map(({ topic, base, number, given, quiet }) => [topic, base, number, given, quiet]),
        topics,
        questions: questions.map(({ target, topic, first, age, id }) => [target, topic, first, age, near(id)]),
        is_back: isBack,
        is_leaving: isLeaving,
        clock
      }, vector.control)
    }
  })
}

// This node signs nothing, sends messages as JSON, counts from 0, and has no shards.
const made = frames.filter(({ signed_by: key, serialization, base, shards }) =>
  !key && serialization !== 'msgpack' && base === 0 && !shards)

for (const vector of made.filter(({ name }) => name !== BEYOND_JAVASCRIPT)) {
  test(`makes ${vector.name}`, () => {
    const { control, answer } = read(vector)
    const count = vector.messages?.length ?? 0
    const array = Buffer.from(JSON.stringify(vector.messages ?? []))
    const body = {
      messages: () => array,
      again: () => wire.packAgain(vector.runs, array),
      answer: () => {
        const replies = answer.replies.map(({ id, start, kept }) => [id, start, kept])
        return wire.packAnswer(replies, answer.reached, answer.goesOn)
      },
      control: () => wire.packControl(control)
    }[vector.kind]()
    const { sender, number, answers } = vector
    const serialization = SERIALIZATIONS[vector.serialization] ?? 0
    const frame = wire.pack({ kind: kindOf(vector), sender, number, count, serialization, answers }, body)
    assert.equal(frame.toString('hex'), vector.frame)
  })
}

for (const vector of refused.filter(({ keys, name }) => !keys.length && !TAKEN.includes(name))) {
  test(`refuses ${vector.name}`, () => {
    assert.throws(() => read(vector))
  })
}

test('the vectors have frames to make and to refuse', () => {
  assert.ok(made.length > 5 && refused.length > 20)
})
