// The numbers of a sender: what waits, what is on its way, and what can be sent again.
'use strict'

const { KIND, RUN_BYTES, pack, packAgain, packAnswer } = require('./wire')

const JOINED_BYTES = 256 * 1024
const JOINED_MESSAGES = 4096
const CHUNK = 4 // so many frames answer one question
const TELLINGS = [1, 2, 4, 8] // after so many heartbeats of quiet, a topic's number is told
const QUIET = 600000 // after so long, nothing is kept of a topic but its number
const MARKS = 4096 // of so many frames that are kept no more it is known when they were sent; of older ones, of every second

// Times are milliseconds of one clock. A lane is what a node sends on one topic.
class Lane {
  constructor (topic) {
    this.topic = topic
    this.number = 0 // of the first message that waits
    this.waiting = []
    this.waitingBytes = 0
    this.flight = null // the frame that is on its way, or is to be sent again on the next connection
    this.sent = [] // frames, of which the first `gone` have lost their text
    this.gone = 0
    this.keptBytes = 0
    this.handed = 0
    this.spoke = 0
    this.tellings = TELLINGS.length
    this.isBusy = false
  }

  get isEmpty () {
    return !this.flight && !this.waiting.length
  }

  // Below this number, all messages are accepted or given up.
  get reached () {
    return this.flight ? this.flight.number : this.number
  }

  // The number of the first message that was sent at `time` or later.
  since (time) {
    const frame = this.sent.find(frame => frame.time >= time) ?? this.flight
    return frame?.time >= time ? frame.number : this.number
  }
}

// What waits for too long an outage is given up; `gaveUp(topic, count)` is told.
class Sender {
  constructor (id, { heartbeat, historyBytes, waitingBytes, gaveUp }) {
    this.id = id
    this.heartbeat = heartbeat
    this.historyBytes = historyBytes
    this.waitingBytes = waitingBytes
    this.gaveUp = gaveUp
    this.lanes = new Map()
  }

  // Takes a message, as it is now; where too much waits, the oldest are given up, and their numbers will be missed.
  add (topic, message) {
    if (!this.lanes.has(topic)) this.lanes.set(topic, new Lane(topic))
    const lane = this.lanes.get(topic)
    const text = JSON.stringify(message)
    const before = lane.number
    lane.waiting.push(text)
    lane.waitingBytes += Buffer.byteLength(text)
    while (lane.waitingBytes > this.waitingBytes && lane.waiting.length > 1) {
      lane.waitingBytes -= Buffer.byteLength(lane.waiting.shift())
      lane.number++
    }
    if (lane.number > before) this.gaveUp(topic, lane.number - before)
    return lane
  }

  // Returns the frame that is to be sent now: one that was on its way before, or what waits, joined.
  next (lane, now) {
    if (!lane.flight) {
      const { texts, bytes } = takeSome(lane.waiting)
      if (!texts.length) return null
      const { number } = lane
      lane.number += texts.length
      lane.waitingBytes -= bytes
      lane.flight = { number, end: lane.number, time: now, text: texts.join(), bytes }
      lane.handed = now
    }
    const { number, end, text } = lane.flight
    return pack({ kind: KIND.MESSAGES, sender: this.id, number, count: end - number }, Buffer.from(`[${text}]`))
  }

  // Notes that the frame on its way was accepted, or that it is given up.
  landed (lane, isAccepted, now) {
    if (isAccepted) this.keep(lane, lane.flight)
    lane.flight = null
    lane.spoke = now
    lane.tellings = 0
  }

  keep (lane, frame) {
    lane.sent.push(frame)
    lane.keptBytes += frame.bytes
    while (lane.keptBytes > this.historyBytes) {
      const old = lane.sent[lane.gone++]
      lane.keptBytes -= old.bytes
      old.text = null
    }
    if (lane.gone > MARKS) {
      lane.sent = lane.sent.filter((_, index) => index >= lane.gone || index % 2 === 0)
      lane.gone = Math.ceil(lane.gone / 2)
    }
  }

  // Returns how far we have come on those of the topics on which we have sent something.
  counts (topics, now) {
    const lanes = topics.map(topic => this.lanes.get(topic)).filter(lane => lane && lane.reached)
    return lanes.map(lane => ({
      topic: lane.topic, number: lane.reached, given: lane.number, quiet: Math.round(now - lane.handed)
    }))
  }

  // Returns the topics that are quiet, and whose numbers are to be told now; keeps nothing of those that stay quiet.
  quiet (now) {
    const due = []
    for (const lane of this.lanes.values()) {
      if (lane.tellings < TELLINGS.length && now - lane.spoke >= TELLINGS[lane.tellings] * this.heartbeat) {
        lane.tellings++
        due.push(lane.topic)
      }
      if (now - lane.spoke >= QUIET) Object.assign(lane, { sent: [], gone: 0, keptBytes: 0 })
    }
    return due
  }

  // Returns the frames that answer some questions about one topic. An age is in microseconds.
  answer (topic, questions, now) {
    const lane = this.lanes.get(topic) ?? new Lane(topic)
    const starts = questions.map(({ first, age }) => {
      const start = Math.min(first, lane.reached)
      return age === null ? start : Math.max(start, Math.min(lane.since(now - age / 1000), lane.reached))
    })
    const kept = lane.sent.slice(lane.gone).filter(frame => frame.end > Math.min(...starts))
    const replies = questions.map(({ id }, index) => {
      const first = kept.find(frame => frame.end > starts[index])
      return [id, starts[index], Math.max(starts[index], first ? first.number : lane.reached)]
    })
    const again = group(kept).slice(0, CHUNK).map(frames => this.packAgain(frames, now))
    const answers = [this.packAnswer(lane, replies, again.length > 0)]
    if (again.length) answers.push(...again, this.packAnswer(lane, [], false))
    return answers
  }

  packAnswer (lane, replies, goesOn) {
    const body = packAnswer(replies, lane.reached, goesOn)
    return pack({ kind: KIND.ANSWER, sender: this.id, number: lane.number }, body)
  }

  packAgain (frames, now) {
    const number = frames[0].number
    const runs = frames.map(frame => [frame.end - frame.number, now - frame.time])
    const body = packAgain(runs, Buffer.from(`[${frames.map(frame => frame.text).join()}]`))
    return pack({ kind: KIND.AGAIN, sender: this.id, number, count: frames.at(-1).end - number }, body)
  }
}

// Takes the first texts out of an array, as many as are joined in one frame; at least one, if there is one.
function takeSome (waiting) {
  let count = 0
  let bytes = 0
  while (count < Math.min(waiting.length, JOINED_MESSAGES)) {
    const size = Buffer.byteLength(waiting[count])
    if (count && bytes + size > JOINED_BYTES) break
    bytes += size
    count++
  }
  return { texts: waiting.splice(0, count), bytes }
}

// Groups frames that can travel as one: those that follow one another, and are not too large together.
function group (frames) {
  const groups = []
  let bytes = 0
  let last = null
  for (const frame of frames) {
    const size = frame.bytes + RUN_BYTES
    const fits = bytes + size <= JOINED_BYTES && frame.end - groups.at(-1)?.[0].number <= JOINED_MESSAGES
    if (fits && frame.number === last.end) {
      groups.at(-1).push(frame)
      bytes += size
    } else {
      groups.push([frame])
      bytes = size
    }
    last = frame
  }
  return groups
}

module.exports = { Sender }
