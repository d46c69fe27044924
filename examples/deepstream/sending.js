// The numbers of a sender: what waits, what is on its way, and what can be sent again.
'use strict'

const { KIND, pack, packAgain, packAnswer } = require('./wire')

const JOINED_BYTES = 256 * 1024
const JOINED_MESSAGES = 4096
const CHUNK = 4 // so many frames answer one question
const TELLINGS = [1, 2, 4, 8] // after so many heartbeats of quiet, a topic's number is told
const MARKS = 4096 // of so many frames of a topic it is known when they were sent

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
    this.hasForgotten = false // whether there were frames before these
    this.keptBytes = 0
    this.handed = 0
    this.spoke = 0
    this.tellings = TELLINGS.length
    this.isBusy = false
  }

  // Below this number, all messages are accepted or given up.
  get reached () {
    return this.flight ? this.flight.number : this.number
  }

  // The number of the first message that was sent at `time` or later.
  since (time) {
    const sent = this.flight ? [...this.sent, this.flight] : this.sent
    const index = sent.findIndex(frame => frame.time >= time)
    if (index === -1) return this.number
    return index === 0 && this.hasForgotten ? 0 : sent[index].number
  }
}

class Sender {
  constructor (id, { heartbeat, historyBytes, waitingBytes }) {
    this.id = id
    this.heartbeat = heartbeat
    this.historyBytes = historyBytes
    this.waitingBytes = waitingBytes
    this.lanes = new Map()
  }

  lane (topic) {
    if (!this.lanes.has(topic)) this.lanes.set(topic, new Lane(topic))
    return this.lanes.get(topic)
  }

  // Takes a message, as it is now; where too much waits, the oldest are given up, and their numbers will be missed.
  add (topic, message) {
    const lane = this.lane(topic)
    const text = JSON.stringify(message)
    lane.waiting.push(text)
    lane.waitingBytes += text.length
    while (lane.waitingBytes > this.waitingBytes && lane.waiting.length > 1) {
      lane.waitingBytes -= lane.waiting.shift().length
      lane.number++
    }
    return lane
  }

  // Returns the frame that is to be sent now: one that was on its way before, or what waits, joined.
  next (lane, now) {
    if (!lane.flight) {
      const texts = takeSome(lane.waiting, JOINED_MESSAGES)
      if (!texts.length) return null
      lane.flight = { number: lane.number, end: lane.number + texts.length, time: now, text: texts.join() }
      lane.waitingBytes -= texts.reduce((bytes, text) => bytes + text.length, 0)
      lane.number = lane.flight.end
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
    lane.keptBytes += frame.text.length
    while (lane.keptBytes > this.historyBytes) {
      const old = lane.sent[lane.gone++]
      lane.keptBytes -= old.text.length
      old.text = null
    }
    if (lane.gone > 2 * MARKS) {
      lane.sent.splice(0, MARKS)
      lane.gone -= MARKS
      lane.hasForgotten = true
    }
  }

  // Returns how far we have come on those of the topics on which we have sent something.
  counts (topics, now) {
    const lanes = topics.map(topic => this.lanes.get(topic)).filter(lane => lane && lane.reached)
    return lanes.map(lane => ({
      topic: lane.topic, number: lane.reached, given: lane.number, quiet: Math.round(now - lane.handed)
    }))
  }

  // Returns the topics that are quiet, and whose numbers are to be told now.
  quiet (now) {
    const due = [...this.lanes.values()].filter(lane =>
      lane.tellings < TELLINGS.length && now - lane.spoke >= TELLINGS[lane.tellings] * this.heartbeat)
    due.forEach(lane => lane.tellings++)
    return due.map(lane => lane.topic)
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

// Takes the first texts out of an array, as many as are joined in one frame.
function takeSome (texts, most) {
  let bytes = 0
  const end = texts.findIndex((text, index) => (bytes += text.length) > JOINED_BYTES && index > 0)
  return texts.splice(0, end === -1 ? most : Math.min(end, most))
}

// Groups frames that can travel as one: those that follow one another, and are not too large together.
function group (frames) {
  const groups = []
  let bytes = 0
  let end = null
  for (const frame of frames) {
    bytes += frame.text.length
    if (frame.number !== end || bytes > JOINED_BYTES) {
      groups.push([])
      bytes = frame.text.length
    }
    groups.at(-1).push(frame)
    end = frame.end
  }
  return groups
}

module.exports = { Sender }
