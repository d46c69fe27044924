// The numbers of a receiver: what is due, what is missing, what to ask for, and what came twice.
'use strict'

const { randomBytes } = require('node:crypto')
const { KIND } = require('./wire')

const JITTER = 5
const HELD_BYTES = 4 * 1024 * 1024 // what came after a gap is held up to here; the rest is asked for later
const TRIES = 8 // so many questions may a sender that is heard leave without an answer
const VAIN = 16 // so many answers in a row may bring nothing
const SENDERS = 10000 // so many senders of a topic are known

// What one sender sends on one topic. While something is missing, `held` has what came after it.
class Stream {
  constructor (topic, sender, due) {
    this.topic = topic
    this.sender = sender
    this.due = due // the number of the next message; null until it is known where the messages begin for us
    this.answers = false
    this.until = 0 // all that is missing has lower numbers
    this.held = []
    this.heldBytes = 0
    this.ids = new Set() // of our questions
    this.askAt = Infinity
  }

  get isWhole () {
    return this.due !== null && this.due >= this.until && !this.held.length
  }
}

// Times are milliseconds. Messages go to `deliver(topic, messages)`, losses to `report(topic, sender, count)`.
class Receiver {
  constructor ({ heartbeat, patience, deliver, report }) {
    this.quarter = heartbeat / 4
    this.heartbeat = heartbeat
    this.patience = patience // a sender that is not heard for so long is given up
    this.deliver = deliver
    this.report = report
    this.topics = new Map()
    this.gaps = new Set() // the streams of which something is missing
    this.duplicates = 0
  }

  listen (topic, now) {
    this.topics.set(topic, { name: topic, since: now, streams: new Map() })
  }

  // Takes a frame with messages.
  take (topic, frame, messages, now) {
    const known = this.topics.get(topic)
    if (!known) return
    const isAgain = frame.kind === KIND.AGAIN
    let stream = known.streams.get(frame.sender)
    if (!stream && isAgain) return
    if (!stream) {
      const hasMissed = frame.answers && frame.number > frame.base
      stream = this.stream(known, frame.sender, hasMissed ? null : frame.number, now)
    }
    stream.answers = frame.answers
    stream.heard = true
    if (stream.due !== null) stream.due = Math.max(stream.due, frame.base)
    if (isAgain && (stream.due === null || (frame.number > stream.due && stream.isWhole))) return
    if (stream.due !== null && frame.number + frame.count <= stream.due) {
      this.duplicates += isAgain ? 0 : frame.count
      return
    }
    this.hold(stream, { number: frame.number, end: frame.number + frame.count, messages, bytes: frame.body.length })
    this.goOn(stream, 0, now)
  }

  // Takes what a sender tells of its numbers.
  told (sender, answers, counts, now) {
    for (const { topic, base, number, given, quiet } of counts) {
      const known = this.topics.get(topic)
      if (!known || given === base) continue
      let stream = known.streams.get(sender)
      if (!stream) {
        const isOld = number === given && now - quiet < known.since
        if (!isOld && !answers) continue
        stream = this.stream(known, sender, isOld ? given : null, now)
      }
      stream.answers = answers
      stream.heard = true
      if (stream.due === null || number > stream.due) {
        stream.until = Math.max(stream.until, number)
        this.goOn(stream, 0, now)
      }
    }
  }

  // Takes a sender's answer to questions, ours or others'.
  answered (topic, frame, { replies, goesOn }, now) {
    const stream = this.topics.get(topic)?.streams.get(frame.sender)
    if (!stream || !this.gaps.has(stream)) return
    stream.heard = true
    const due = stream.due
    const ours = replies.filter(({ id }) => stream.ids.has(id))
    for (const { start, kept } of ours) {
      if (stream.due === null) stream.due = Math.max(Math.min(start, firstHeld(stream)), frame.base)
      this.goOn(stream, start <= stream.due ? kept : 0, now)
    }
    if (!this.gaps.has(stream) || stream.due === null) return
    if (ours.length) {
      stream.tries = 0
      stream.since = now
      stream.vain = stream.due === due ? stream.vain + 1 : 0
    }
    stream.askAt = now + (goesOn || stream.vain > 1 ? this.quarter : Math.random() * JITTER)
  }

  // Asks anew, of one sender or of all, on a new connection.
  askAgain (now, sender = null) {
    for (const stream of this.gaps) {
      if (sender === null || stream.sender === sender) this.askSoon(stream, now)
    }
  }

  // Notes that a sender answers no more questions; its last answers may still be on their way.
  left (sender, now) {
    for (const stream of this.gaps) {
      if (stream.sender === sender) stream.leftAt = stream.askAt = now + this.heartbeat / 2
    }
  }

  get nextDue () {
    return Math.min(...[...this.gaps].map(stream => stream.askAt))
  }

  // Returns the questions that are to be asked now; gives up what nobody will send again.
  due (now) {
    const questions = []
    for (const stream of [...this.gaps].filter(stream => stream.askAt <= now)) {
      const isVain = stream.tries >= TRIES || stream.vain >= VAIN || now - stream.since > this.patience
      if (isVain || now >= stream.leftAt) {
        this.giveUp(stream, now)
        continue
      }
      stream.tries += stream.heard
      stream.heard = false
      stream.askAt = now + this.quarter
      const id = randomBytes(8).readBigUInt64BE()
      stream.ids.add(id)
      const age = stream.due === null ? Math.round((now - stream.topic.since) * 1000) : null
      questions.push({ target: stream.sender, topic: stream.topic.name, first: stream.due ?? 0, age, id })
    }
    return questions
  }

  stream (known, sender, due, now) {
    if (known.streams.size >= SENDERS) {
      const [oldest, stream] = known.streams.entries().next().value
      known.streams.delete(oldest)
      this.gaps.delete(stream)
      known.since = now // if it comes back, it must not send again what was delivered
    }
    const stream = new Stream(known, sender, due)
    known.streams.set(sender, stream)
    return stream
  }

  hold (stream, frame) {
    stream.until = Math.max(stream.until, frame.end)
    const index = stream.held.findIndex(({ number }) => number >= frame.number)
    const isDue = stream.due !== null && frame.number <= stream.due
    const isKnown = index !== -1 && stream.held[index].number === frame.number && stream.held[index].end >= frame.end
    if (isKnown || (!isDue && stream.heldBytes + frame.bytes > HELD_BYTES)) return
    stream.held.splice(index === -1 ? stream.held.length : index, 0, frame)
    stream.heldBytes += frame.bytes
  }

  // Delivers what is due; what is missing below number `kept` is lost. Asks for the rest, if its sender answers.
  goOn (stream, kept, now) {
    const before = stream.due
    while (stream.due !== null) {
      const first = firstHeld(stream)
      if (first <= stream.due) {
        const frame = stream.held.shift()
        stream.heldBytes -= frame.bytes
        if (frame.end > stream.due) {
          const messages = frame.messages.slice(stream.due - frame.number)
          stream.due = frame.end
          this.deliver(stream.topic.name, messages)
        }
      } else if (stream.due < kept) {
        const end = Math.min(kept, first)
        this.report(stream.topic.name, stream.sender, end - stream.due)
        stream.due = end
      } else {
        break
      }
    }
    if (stream.isWhole) {
      this.gaps.delete(stream)
      stream.ids.clear()
    } else if (!stream.answers) {
      this.giveUp(stream, now)
    } else if (!this.gaps.has(stream)) {
      this.gaps.add(stream)
      this.askSoon(stream, now)
    } else if (stream.due !== before) {
      Object.assign(stream, { tries: 0, vain: 0, since: now })
    }
  }

  askSoon (stream, now) {
    const askAt = now + Math.random() * JITTER
    Object.assign(stream, { tries: 0, vain: 0, since: now, leftAt: Infinity, heard: true, askAt })
  }

  // Counts as lost what is missing, and goes on with what is held.
  giveUp (stream, now) {
    if (stream.due === null && !stream.held.length) {
      this.gaps.delete(stream)
      stream.topic.streams.delete(stream.sender)
      return
    }
    stream.due ??= stream.held[0].number
    this.goOn(stream, stream.until, now)
  }
}

function firstHeld (stream) {
  return stream.held.length ? stream.held[0].number : Infinity
}

module.exports = { Receiver }
