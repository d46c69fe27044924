// What the JavaScript node sends, and what it makes of what it receives; without a broker.
'use strict'

const assert = require('node:assert/strict')
const test = require('node:test')
const { Receiver } = require('../receiving')
const { Sender } = require('../sending')
const wire = require('../wire')

const OURS = '00'.repeat(16)
const OTHER = 'ff'.repeat(16)
const HEARTBEAT = 1000
const read = payload => wire.read('EVENT', payload, 'CONTROL')

function sender (limits = {}) {
  return new Sender(OURS, { heartbeat: HEARTBEAT, historyBytes: 1000, waitingBytes: 1000, ...limits })
}

function send (from, message, now = 0) {
  const lane = from.add('EVENT', message)
  const payload = from.next(lane, now)
  from.landed(lane, true, now)
  return read(payload)
}

function receiver (now = 0) {
  const got = []
  const lost = []
  const receiver = new Receiver({
    heartbeat: HEARTBEAT,
    patience: 10 * HEARTBEAT,
    deliver: (topic, messages) => got.push(...messages),
    report: (topic, sender, count) => lost.push(count)
  })
  receiver.listen('EVENT', now)
  const take = (number, messages, { answers = true, kind = wire.KIND.MESSAGES, base = 0, now = 0 } = {}) => {
    const frame = { kind, sender: OTHER, number, base, count: messages.length, answers, body: Buffer.alloc(1) }
    receiver.take('EVENT', frame, messages, now)
  }
  const answer = (id, start, kept, { number = 100, goesOn = false, now = 0 } = {}) => {
    receiver.answered('EVENT', { sender: OTHER, number, base: 0 }, { replies: [{ id, start, kept }], goesOn }, now)
  }
  return { receiver, got, lost, take, answer }
}

const AGAIN = { kind: wire.KIND.AGAIN }

test('messages that wait leave together, numbered on', () => {
  const from = sender()
  const lane = from.add('EVENT', 'a')
  assert.equal(read(from.next(lane, 0)).frame.number, 0)
  from.add('EVENT', 'b')
  from.add('EVENT', 'c')
  from.landed(lane, true, 0)
  const { frame, messages } = read(from.next(lane, 0))
  assert.equal(frame.number, 1)
  assert.deepEqual(messages, ['b', 'c'])
})

test('a frame that was not accepted is sent again with its number', () => {
  const from = sender()
  const lane = from.add('EVENT', 'a')
  const first = from.next(lane, 0)
  from.add('EVENT', 'b')
  assert.deepEqual(from.next(lane, 5), first)
})

test('where too much waits, the oldest are given up, and keep their numbers', () => {
  const from = sender({ waitingBytes: 10 })
  for (let number = 0; number < 9; number++) from.add('EVENT', number)
  const lane = from.add('EVENT', 'x'.repeat(8))
  const { frame, messages } = read(from.next(lane, 0))
  assert.equal(frame.number, 9)
  assert.deepEqual(messages, ['x'.repeat(8)])
})

test('a question is answered with what is kept, and with where that begins', () => {
  const from = sender({ historyBytes: 15 })
  for (let number = 0; number < 5; number++) send(from, 'x'.repeat(3)) // 5 bytes each
  const [before, again, after] = from.answer('EVENT', [{ first: 1, age: null, id: 7n }], 9).map(read)
  assert.deepEqual(before.answer, { replies: [{ id: 7n, start: 1, kept: 2 }], reached: 5, goesOn: true })
  assert.equal(again.frame.kind, wire.KIND.AGAIN)
  assert.equal(again.frame.number, 2)
  assert.equal(again.messages.length, 3)
  assert.deepEqual(after.answer, { replies: [], reached: 5, goesOn: false })
})

test('who has not heard us gets what was sent since it subscribed', () => {
  const from = sender()
  for (let time = 0; time < 5; time++) send(from, time, time)
  const [{ answer }, again] = from.answer('EVENT', [{ first: 0, age: 2500, id: 7n }], 5).map(read)
  assert.deepEqual(answer.replies, [{ id: 7n, start: 3, kept: 3 }])
  assert.deepEqual(again.messages, [3, 4])
})

test('a question about the future is answered with nothing', () => {
  const frames = sender().answer('EVENT', [{ first: 9, age: null, id: 7n }], 0).map(read)
  assert.deepEqual(frames.map(({ answer }) => answer), [
    { replies: [{ id: 7n, start: 0, kept: 0 }], reached: 0, goesOn: false }
  ])
})

test('a number is told when its topic has been quiet, four times', () => {
  const from = sender()
  send(from, 'a')
  const times = []
  for (let time = 0; time < 30 * HEARTBEAT; time += HEARTBEAT / 4) if (from.quiet(time).length) times.push(time)
  assert.deepEqual(times, [1, 2, 4, 8].map(beats => beats * HEARTBEAT))
  assert.deepEqual(from.counts(['EVENT', 'RPC'], 5), [{ topic: 'EVENT', number: 1, given: 1, quiet: 5 }])
})

test('what comes twice is dropped and counted', () => {
  const { receiver: to, got, take } = receiver()
  take(0, ['a', 'b'])
  take(0, ['a', 'b'])
  take(1, ['b', 'c'])
  assert.deepEqual(got, ['a', 'b', 'c'])
  assert.equal(to.duplicates, 2)
})

test('what is missing is asked for, and delivered in order', () => {
  const { receiver: to, got, lost, take, answer } = receiver()
  take(0, ['a'])
  take(3, ['d'])
  const [{ id, ...question }] = to.due(10)
  assert.deepEqual(question, { target: OTHER, topic: 'EVENT', first: 1, age: null })
  answer(id, 1, 1, { goesOn: true })
  take(1, ['b', 'c'], AGAIN)
  assert.deepEqual(got, ['a', 'b', 'c', 'd'])
  assert.deepEqual(lost, [])
  assert.deepEqual(to.due(1e9), [])
})

test('what its sender no longer has is reported', () => {
  const { receiver: to, got, lost, take, answer } = receiver()
  take(0, ['a'])
  take(5, ['f'])
  answer(to.due(10)[0].id, 1, 4, { goesOn: true })
  take(4, ['e'], AGAIN)
  assert.deepEqual(got, ['a', 'e', 'f'])
  assert.deepEqual(lost, [3])
})

test('of a sender that cannot be asked, what is missing is reported at once', () => {
  const { got, lost, take } = receiver()
  take(4, ['a'], { answers: false })
  take(7, ['b'], { answers: false })
  assert.deepEqual(got, ['a', 'b'])
  assert.deepEqual(lost, [2])
})

test('a sender that leaves our questions unanswered is given up', () => {
  const { receiver: to, got, lost, take } = receiver()
  take(0, ['a'])
  take(2, ['c'])
  let asked = 0
  for (let time = 10; time < 20 * HEARTBEAT; time += 50) asked += to.due(time).length
  assert.ok(asked > 10)
  assert.deepEqual(got, ['a', 'c'])
  assert.deepEqual(lost, [1])
})

test('the beginning of a sender that is first heard later is asked for, with our age', () => {
  const { receiver: to, got, take, answer } = receiver(0)
  take(3, ['d'], { now: 20 })
  const [{ id, first, age }] = to.due(30)
  assert.deepEqual([first, age], [0, 30000])
  answer(id, 2, 2, { goesOn: true })
  take(1, ['b', 'c'], AGAIN)
  assert.deepEqual(got, ['c', 'd'])
})

test('a number that is told shows what is missing at the end', () => {
  const { receiver: to, take } = receiver()
  const tell = (number, quiet = 0) =>
    to.told(OTHER, true, [{ topic: 'EVENT', base: 0, number, given: number, quiet }], 10)
  take(0, ['a'])
  tell(1)
  assert.equal(to.gaps.size, 0)
  tell(2)
  assert.equal(to.due(20)[0].first, 1)
})

test('what was published before we subscribed is not missed', () => {
  const { receiver: to, got, take } = receiver(1000)
  to.told(OTHER, true, [{ topic: 'EVENT', base: 0, number: 9, given: 9, quiet: 600 }], 1500)
  assert.equal(to.gaps.size, 0)
  take(9, ['next'])
  assert.deepEqual(got, ['next'])
})

test('messages below a base that has risen are not missed', () => {
  const { got, lost, take } = receiver()
  take(0, ['a'])
  take(50, ['b'], { base: 50 })
  assert.deepEqual(got, ['a', 'b'])
  assert.deepEqual(lost, [])
})
