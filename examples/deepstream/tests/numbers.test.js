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
  return new Sender(OURS, { heartbeat: HEARTBEAT, historyBytes: 1000, waitingBytes: 1000, gaveUp () {}, ...limits })
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
  const forged = []
  const receiver = new Receiver({
    heartbeat: HEARTBEAT,
    patience: 10 * HEARTBEAT,
    deliver: (topic, messages) => got.push(...messages),
    report: (topic, sender, count) => lost.push(count),
    reject: (topic, sender) => forged.push(sender)
  })
  receiver.listen('EVENT', now)
  const take = (number, messages, { answers = true, kind = wire.KIND.MESSAGES, base = 0, now = 0 } = {}) => {
    const frame = { kind, sender: OTHER, number, base, count: messages.length, answers, body: Buffer.alloc(1) }
    receiver.take('EVENT', frame, messages, now)
  }
  const answer = (id, start, kept, { number = 100, base = 0, reached = 0, goesOn = false, now = 0 } = {}) => {
    const replies = [{ id, start, kept }]
    receiver.answered('EVENT', { sender: OTHER, number, base }, { replies, reached, goesOn }, now)
  }
  const tell = (number, { given = number, quiet = 0, now = 10 } = {}) =>
    receiver.told(OTHER, true, [{ topic: 'EVENT', base: 0, number, given, quiet }], now)
  return { receiver, got, lost, forged, take, answer, tell }
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

test('what is given up because too much waits is told', () => {
  const counts = []
  const from = sender({ waitingBytes: 10, gaveUp: (topic, count) => counts.push([topic, count]) })
  from.add('EVENT', 1)
  from.add('EVENT', 2)
  from.add('EVENT', 'x'.repeat(8))
  assert.deepEqual(counts, [['EVENT', 2]])
})

test('what waits is measured in bytes, and joined up to 256 KiB of them', () => {
  const from = sender({ waitingBytes: 1e6 })
  for (let count = 0; count < 4; count++) from.add('EVENT', '\u20ac'.repeat(40000)) // 3 bytes each
  const lane = from.add('EVENT', 'last')
  assert.equal(lane.waitingBytes, 4 * 120002 + 6)
  assert.equal(read(from.next(lane, 0)).messages.length, 2)
})

test('what is sent again is joined up to 256 KiB, with the ages of its frames', () => {
  const from = sender({ historyBytes: 1e7 })
  for (let count = 0; count < 30; count++) send(from, 'x'.repeat(100000))
  const frames = from.answer('EVENT', [{ first: 0, age: null, id: 7n }], 9)
  assert.equal(frames.length, 6) // an answer, a chunk of four frames, and the end of it
  assert.ok(frames.every(frame => frame.length < 257 * 1024))
})

test('it is known for long when messages were sent, also where they are kept no more', () => {
  const from = sender({ historyBytes: 100 })
  for (let time = 0; time < 20000; time++) send(from, time, time)
  const [{ answer }] = from.answer('EVENT', [{ first: 0, age: (20000 - 10000) * 1000, id: 7n }], 20000).map(read)
  assert.ok(Math.abs(answer.replies[0].start - 10000) < 100, answer.replies[0].start)
  assert.ok(from.lanes.get('EVENT').sent.length < 10000)
})

test('of a topic that is quiet for long, nothing is kept but its number', () => {
  const from = sender()
  send(from, 'a')
  from.quiet(700000)
  const [{ answer }] = from.answer('EVENT', [{ first: 0, age: null, id: 7n }], 700000).map(read)
  assert.deepEqual(answer.replies, [{ id: 7n, start: 0, kept: 1 }])
  assert.equal(send(from, 'b', 700001).frame.number, 1)
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
  const { receiver: to, take, tell } = receiver()
  take(0, ['a'])
  tell(1)
  assert.equal(to.gaps.size, 0)
  tell(2)
  assert.equal(to.due(20)[0].first, 1)
})

test('what was published before we subscribed is not missed', () => {
  const { receiver: to, got, take, tell } = receiver(1000)
  tell(9, { quiet: 600, now: 1500 })
  assert.equal(to.gaps.size, 0)
  take(9, ['next'])
  assert.deepEqual(got, ['next'])
})

test('messages below a base that has risen are not missed', () => {
  const { receiver: to, got, lost, take, answer } = receiver()
  take(0, ['a'])
  take(50, ['b'], { base: 50 })
  answer(to.due(10)[0].id, 50, 50, { base: 50, reached: 51 })
  assert.deepEqual(got, ['a', 'b'])
  assert.deepEqual(lost, [])
})

test('of a sender that cannot be asked, messages below a base that has risen are not missed', () => {
  const { got, lost, take } = receiver()
  take(0, ['a'], { answers: false })
  take(50, ['b'], { base: 50, answers: false })
  assert.deepEqual(got, ['a', 'b'])
  assert.deepEqual(lost, [])
})

test('a frame with a number that its sender has not given is dropped', () => {
  const { receiver: to, got, lost, forged, take, answer } = receiver()
  take(0, ['a'])
  take(1000, ['forged'])
  answer(to.due(10)[0].id, 1, 1, { number: 1, reached: 1, now: 11 })
  take(1, ['b'], { now: 12 })
  assert.deepEqual(got, ['a', 'b'])
  assert.deepEqual(lost, [])
  assert.deepEqual(forged, [OTHER])
})

test('a forged base makes no sender unheard', () => {
  const { receiver: to, got, take, answer } = receiver()
  take(0, ['a'])
  take(1000, ['forged'], { base: 1000 })
  answer(to.due(10)[0].id, 1, 1, { number: 1, reached: 1, now: 11 })
  take(1, ['b'], { now: 12 })
  assert.deepEqual(got, ['a', 'b'])
})

test('after forged messages that were delivered, those of their sender are heard', () => {
  const { receiver: to, got, take, answer } = receiver()
  take(0, ['a'])
  take(1, ['forged', 'forged', 'forged'])
  take(2, ['c'], { now: 5 })
  answer(to.due(12)[0].id, 3, 3, { number: 3, reached: 3, now: 13 })
  take(3, ['d'], { now: 20 })
  assert.deepEqual(got.slice(4), ['c', 'd'])
})

test('a sender that tells less than it seemed to have given is asked', () => {
  const { receiver: to, got, take, tell, answer } = receiver()
  take(0, ['a', 'forged', 'forged'])
  tell(1, { now: 20 })
  answer(to.due(30)[0].id, 1, 1, { number: 1, reached: 1, now: 31 })
  take(1, ['b'], { now: 40 })
  assert.deepEqual(got.slice(3), ['b'])
})

test('a sender that was right is not heard twice', () => {
  const { receiver: to, got, lost, take, answer } = receiver()
  take(0, ['a'])
  take(1, ['b'])
  take(0, ['a'], { now: 5 })
  take(2, ['c'], { now: 6 })
  answer(to.due(12)[0].id, 2, 2, { number: 3, reached: 3, now: 13 })
  assert.deepEqual(got, ['a', 'b', 'c'])
  assert.deepEqual(lost, [])
  assert.equal(to.gaps.size, 0)
})

test('a flood of newcomers makes no sender forgotten that is heard', () => {
  const { receiver: to, got, take } = receiver()
  take(0, ['a'])
  for (let number = 0; number < 20000; number++) {
    const sender = number.toString(16).padStart(32, '0')
    to.take('EVENT', { kind: wire.KIND.MESSAGES, sender, number: 0, base: 0, count: 1, answers: true, body: '' }, ['x'], 1)
  }
  take(0, ['a'], { now: 2 })
  assert.equal(got.filter(message => message === 'a').length, 1)
  assert.equal(got.length, 20001)
  assert.equal(to.topics.get('EVENT').streams.size, 10000)
})
